"""What is fastest here: the cost of a call, the chance of a guess, and the plan made of both."""
