"""Collections and images over the planet."""
