"""Child processes: started, watched, started again and ended, the same way wherever there are any."""
