"""The app that worker processes run for the corpus; broker and store come from the environment."""

from canvas.app_tasks import declare

from cloudq import CloudQ

app = CloudQ("corpus")
declare(app)
