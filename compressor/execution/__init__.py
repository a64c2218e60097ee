"""How modules are copied and run so that two passes can be compared: equal states, equal random numbers, float64."""
