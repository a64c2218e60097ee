"""The commands besides compressing: plan, inspect, verify, bench."""
