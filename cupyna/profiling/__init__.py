"""What calls cost: time, memory and what bounds them."""
