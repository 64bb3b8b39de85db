"""AWS Lambda: send the periodic tasks that are due. Invoke it once a minute; CLOUDQ_APP=module:app."""

from cloudq.beat.on_lambda import make_ticker

handler = make_ticker()
