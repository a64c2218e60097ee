"""What can be asked besides compressing: plan, inspect, verify, bench."""
