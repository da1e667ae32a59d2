"""Everything about publishing models: tables, cards, the Hub."""
