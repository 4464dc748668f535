"""What is installed here: extras that commands need, what other packages bring, and which version this is."""
