from shared import ids
from shared.ledger import moves


def test_migrates(service_database):
    database = service_database("api")
    with database.connect() as connection:
        assert moves.claim(connection, ids.draw(), [ids.draw()]) == []
