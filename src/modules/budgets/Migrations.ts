/** The tables of budgets. */
import { Effect } from "effect"
import { SqlClient, type SqlError } from "effect/sql"

/**
 * SQLite has one node, so that reservations can live in its memory: the table holds what was spent. `budget_settlements`
 * tells whether a transaction was committed whose end the node did not see.
 */
const sqlite = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE budget_accounts (
    account_key TEXT NOT NULL PRIMARY KEY,
    spent BIGINT NOT NULL,
    resets_at BIGINT
  ) WITHOUT ROWID`
  yield* sql`CREATE INDEX budget_accounts_resets_at ON budget_accounts (resets_at)`
  yield* sql`CREATE TABLE budget_settlements (
    process TEXT NOT NULL,
    number BIGINT NOT NULL,
    PRIMARY KEY (process, number)
  ) WITHOUT ROWID`
})

/**
 * PostgreSQL has many nodes, and everything is in its tables. What a request needs is one function call, and so one round
 * trip. All functions lock in the same order, and so never each other: reservations by id, then accounts by key.
 *
 * Money is passed in as BIGINT and given out as DOUBLE PRECISION, which is exact below 2^53. -1 stands for a time that
 * never comes: arrays of parameters have no nulls.
 */
const postgres = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  // Every request writes to these rows: room in the page lets the new version stay beside the old one (HOT).
  yield* sql`CREATE TABLE budget_accounts (
    account_key TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    spent BIGINT NOT NULL DEFAULT 0,
    reserved BIGINT NOT NULL DEFAULT 0,
    resets_at BIGINT
  ) WITH (fillfactor = 50)`
  yield* sql`CREATE INDEX budget_accounts_resets_at ON budget_accounts (resets_at)`
  yield* sql`CREATE TABLE budget_reservations (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    operation TEXT NOT NULL,
    operations INTEGER NOT NULL,
    account_keys TEXT[] COLLATE "C" NOT NULL,
    amounts BIGINT[] NOT NULL,
    expires_at BIGINT NOT NULL,
    released BOOLEAN NOT NULL DEFAULT FALSE
  )`
  yield* sql`CREATE INDEX budget_reservations_expires_at ON budget_reservations (released, expires_at)`

  yield* sql`CREATE FUNCTION budget_reserve(
    the_id TEXT, the_operation TEXT, the_keys TEXT[], the_limits BIGINT[], the_resets BIGINT[], amount BIGINT,
    expires BIGINT, patience_ms BIGINT
  ) RETURNS TABLE (applied BOOLEAN, spent DOUBLE PRECISION[], reserved DOUBLE PRECISION[]) LANGUAGE plpgsql AS $$
  #variable_conflict use_column
  DECLARE
    known INTEGER;
  BEGIN
    -- A lock that takes longer than the caller waits must not be got after it has gone.
    PERFORM set_config('lock_timeout', patience_ms::TEXT, true);
    PERFORM 1 FROM budget_reservations r WHERE r.id = the_id FOR UPDATE;

    SELECT count(*) INTO known FROM budget_accounts a WHERE a.account_key = ANY(the_keys);
    IF known < cardinality(the_keys) THEN
      INSERT INTO budget_accounts (account_key, resets_at)
        SELECT k.key, NULLIF(k.resets, -1) FROM unnest(the_keys, the_resets) AS k(key, resets)
        ORDER BY k.key COLLATE "C" ON CONFLICT DO NOTHING;
    END IF;
    PERFORM 1 FROM budget_accounts a WHERE a.account_key = ANY(the_keys) ORDER BY a.account_key FOR UPDATE;

    SELECT bool_and(amount <= GREATEST(0, k.most - a.spent - a.reserved)),
        array_agg(a.spent::DOUBLE PRECISION ORDER BY k.place), array_agg(a.reserved::DOUBLE PRECISION ORDER BY k.place),
        count(*)
      INTO applied, spent, reserved, known
      FROM unnest(the_keys, the_limits) WITH ORDINALITY AS k(key, most, place)
      JOIN budget_accounts a ON a.account_key = k.key;
    IF known < cardinality(the_keys) THEN
      RAISE EXCEPTION 'an account of a past window was removed while it was reserved in';
    END IF;
    IF NOT applied THEN
      RETURN NEXT;
      RETURN;
    END IF;

    UPDATE budget_accounts a SET reserved = a.reserved + amount, resets_at = NULLIF(k.resets, -1)
      FROM unnest(the_keys, the_resets) AS k(key, resets) WHERE a.account_key = k.key;
    INSERT INTO budget_reservations (id, operation, operations, account_keys, amounts, expires_at)
      VALUES (the_id, the_operation, 1, the_keys, array_fill(amount, ARRAY[cardinality(the_keys)]), expires)
      ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
      UPDATE budget_reservations r
        SET operation = the_operation, operations = r.operations + 1, expires_at = GREATEST(r.expires_at, expires),
          released = FALSE,
          (account_keys, amounts) = (
            SELECT array_agg(p.key), array_agg(p.sum) FROM (
              SELECT u.key, sum(u.part)::BIGINT AS sum FROM (
                SELECT h.key, CASE WHEN r.released THEN 0 ELSE h.part END
                  FROM unnest(r.account_keys, r.amounts) AS h(key, part)
                UNION ALL SELECT k.key, amount FROM unnest(the_keys) AS k(key)
              ) AS u(key, part) GROUP BY u.key
            ) AS p
          )
        WHERE r.id = the_id;
    END IF;
    SELECT array_agg(x + amount ORDER BY place) INTO reserved FROM unnest(reserved) WITH ORDINALITY AS v(x, place);
    RETURN NEXT;
  END $$`

  // Replaces reservations by what was spent, and gives how many there were. An id that is not reserved counts nothing; one
  // whose reservation has expired holds nothing any more, but counts.
  yield* sql`CREATE FUNCTION budget_settle(the_ids TEXT[], the_actuals BIGINT[]) RETURNS INTEGER LANGUAGE plpgsql AS $$
  DECLARE
    locked TEXT[];
    settled INTEGER;
    keys TEXT[];
    freed BIGINT[];
    costs BIGINT[];
  BEGIN
    -- Only those are deleted that were locked in order: each statement sees what has been committed before it.
    SELECT array_agg(l.id) INTO locked
      FROM (SELECT r.id FROM budget_reservations r WHERE r.id = ANY(the_ids) ORDER BY r.id FOR UPDATE) AS l;
    WITH gone AS (
      DELETE FROM budget_reservations r USING unnest(the_ids, the_actuals) AS s(id, actual)
      WHERE r.id = s.id AND r.id = ANY(locked)
      RETURNING r.account_keys, r.amounts, r.released, s.actual
    ), sums AS (
      SELECT u.key, sum(CASE WHEN g.released THEN 0 ELSE u.amount END) AS freed, sum(g.actual) AS cost
      FROM gone g CROSS JOIN LATERAL unnest(g.account_keys, g.amounts) AS u(key, amount) GROUP BY u.key
    )
    SELECT (SELECT count(*) FROM gone), array_agg(t.key), array_agg(LEAST(t.freed, 9007199254740991)::BIGINT),
        array_agg(LEAST(t.cost, 9007199254740991)::BIGINT)
      INTO settled, keys, freed, costs FROM sums t;
    IF keys IS NOT NULL THEN
      PERFORM 1 FROM budget_accounts a WHERE a.account_key = ANY(keys) ORDER BY a.account_key FOR UPDATE;
      UPDATE budget_accounts a
        SET spent = LEAST(a.spent + t.cost, 9007199254740991), reserved = GREATEST(a.reserved - t.freed, 0)
        FROM unnest(keys, freed, costs) AS t(key, freed, cost) WHERE a.account_key = t.key;
    END IF;
    RETURN settled;
  END $$`

  // Takes back what one operation added, if it was the last on its reservation: nobody knows whether it succeeded.
  yield* sql`CREATE FUNCTION budget_undo(the_id TEXT, the_operation TEXT, the_keys TEXT[], amount BIGINT)
  RETURNS BOOLEAN LANGUAGE plpgsql AS $$
  DECLARE
    left_over INTEGER;
  BEGIN
    SELECT r.operations - 1 INTO left_over FROM budget_reservations r
      WHERE r.id = the_id AND r.operation = the_operation AND NOT r.released FOR UPDATE;
    IF left_over IS NULL THEN
      RETURN FALSE;
    END IF;
    IF left_over = 0 THEN
      PERFORM budget_settle(ARRAY[the_id], ARRAY[0]::BIGINT[]);
      RETURN TRUE;
    END IF;
    UPDATE budget_reservations r SET operation = '', operations = left_over,
        amounts = ARRAY(
          SELECT CASE WHEN u.key = ANY(the_keys) THEN u.part - amount ELSE u.part END
          FROM unnest(r.account_keys, r.amounts) WITH ORDINALITY AS u(key, part, place) ORDER BY u.place
        )
      WHERE r.id = the_id;
    PERFORM 1 FROM budget_accounts a WHERE a.account_key = ANY(the_keys) ORDER BY a.account_key FOR UPDATE;
    UPDATE budget_accounts a SET reserved = GREATEST(a.reserved - amount, 0) WHERE a.account_key = ANY(the_keys);
    RETURN TRUE;
  END $$`

  // Gives back what expired reservations hold, by the database's own clock, and gives how many there were. They stay for a
  // while, in case that they are settled after all. Those that another node has in hand right now are left to it.
  yield* sql`CREATE FUNCTION budget_sweep(most INTEGER) RETURNS INTEGER LANGUAGE plpgsql AS $$
  DECLARE
    ids TEXT[];
    keys TEXT[];
    freed BIGINT[];
  BEGIN
    SELECT array_agg(e.id) INTO ids FROM (
      SELECT r.id FROM budget_reservations r
      WHERE NOT r.released AND r.expires_at <= extract(epoch FROM clock_timestamp()) * 1000
      ORDER BY r.expires_at LIMIT most FOR UPDATE SKIP LOCKED
    ) AS e;
    IF ids IS NULL THEN
      RETURN 0;
    END IF;
    WITH expired AS (
      UPDATE budget_reservations r SET released = TRUE WHERE r.id = ANY(ids) RETURNING r.account_keys, r.amounts
    ), sums AS (
      SELECT u.key, sum(u.amount) AS freed
      FROM expired e CROSS JOIN LATERAL unnest(e.account_keys, e.amounts) AS u(key, amount) GROUP BY u.key
    )
    SELECT array_agg(t.key), array_agg(LEAST(t.freed, 9007199254740991)::BIGINT) INTO keys, freed FROM sums t;
    PERFORM 1 FROM budget_accounts a WHERE a.account_key = ANY(keys) ORDER BY a.account_key FOR UPDATE;
    UPDATE budget_accounts a SET reserved = GREATEST(a.reserved - t.freed, 0)
      FROM unnest(keys, freed) AS t(key, freed) WHERE a.account_key = t.key;
    RETURN cardinality(ids);
  END $$`
})

/** The migrations of budgets, for SQLite and PostgreSQL. */
export const migrations: Readonly<Record<string, Effect.Effect<void, SqlError.SqlError, SqlClient.SqlClient>>> = {
  "0004_budgets": Effect.flatMap(
    SqlClient.SqlClient,
    (sql) => sql.onDialectOrElse({ pg: () => postgres, orElse: () => sqlite })
  )
}
