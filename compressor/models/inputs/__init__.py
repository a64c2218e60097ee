"""What a network takes: shapes, batch dimensions and examples."""
