"""From the head of a queue to an answer: who decides, what is sent, what is sent once more, and the log of it."""
