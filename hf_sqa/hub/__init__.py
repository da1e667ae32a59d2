"""What a model looks like from outside: tables, cards, publishing."""
