"""Send tasks and read results over HTTP: the function behind a Function URL or an API Gateway.

The settings ``api_tasks`` and ``api_auth`` (CLOUDQ_API_TASKS, CLOUDQ_API_AUTH) say which tasks may be called,
and by whom.
"""

from cloudq.aws_lambda.api import make_api

handler = make_api()
