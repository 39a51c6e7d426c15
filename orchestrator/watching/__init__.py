"""What is told of a study while it runs, and after."""
