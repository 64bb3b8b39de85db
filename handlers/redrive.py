"""Send dead letters back by the rules in the setting ``redrive_rules`` (CLOUDQ_REDRIVE_RULES, JSON): the function behind a schedule."""

from cloudq.aws_lambda.redrive import make_redrive

handler = make_redrive()
