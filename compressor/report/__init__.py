"""What a run and each command report: JSON, text on the terminal, pages."""
