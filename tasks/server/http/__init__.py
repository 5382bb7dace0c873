"""How requests are let in and answered, whatever they ask for."""
