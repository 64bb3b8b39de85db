"""Run the tasks of the app CLOUDQ_APP: the function behind an SQS event source mapping.

The mapping needs ``FunctionResponseTypes=["ReportBatchItemFailures"]`` (docs/lambda.md).
"""

from cloudq.aws_lambda import make_handler

handler = make_handler()
