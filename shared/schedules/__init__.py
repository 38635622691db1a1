"""When a schedule fires: pure rules. No clock, no database; the leading Beat applies them (shared/ledger/firing.py)."""
