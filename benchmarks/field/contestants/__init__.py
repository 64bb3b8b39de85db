"""Who is compared. Each ``*_app`` module is one contestant's tasks and senders, run in processes of their own."""
