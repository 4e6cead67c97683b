/**
 * SQLite for `effect/sql`, over `node:sqlite` in a thread of its own (no `@effect/sql-sqlite-node` that is published works
 * with Effect 4.1, and it would block the event loop: `node:sqlite` is synchronous, and waits for the disk and for other
 * processes' locks).
 *
 * There is one connection. Statements outside a transaction are handed to the thread as they come and share messages; a
 * transaction has the connection to itself until it ends. A stream outside a transaction reads from a connection of its
 * own, so that whoever reads slowly keeps nobody waiting; it can only read.
 */
import { Array as Arr, Cause, Effect, Layer, Semaphore, Stream } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient, type SqlConnection, SqlError, Statement } from "effect/sql"
import path from "node:path"
import type { Cell, Reply, Request } from "./SqliteMessages.ts"
import { type SqliteThread, start, threadGone, type Ticket } from "./SqliteThread.ts"

/** How long a statement waits for another process's lock, ms. */
const busyTimeout = 5000
/** After a database could not be opened, how long the next attempt waits, ms. */
const reopenPause = 1000
/** How many streams outside transactions are read at once; more wait. */
const maxStreams = 8

type Row = Record<string, Cell>
type Failed = Extract<Reply, readonly ["failed", ...ReadonlyArray<unknown>]>
type Rows<R> = (rows: Array<R>, columns: ReadonlyArray<string>, cells: ReadonlyArray<Cell>) => void
type Transform = (<A extends object>(rows: ReadonlyArray<A>) => ReadonlyArray<A>) | undefined

/** SQLite's result codes for a second row with the same key, primary keys and row ids included. */
const uniqueViolation = 2067
const keyViolations: ReadonlySet<number | undefined> = new Set([1555, 2579])

const sqlError = (operation: string, [, message, code, errcode]: Failed): SqlError.SqlError => {
  const text = `sqlite ${operation} failed: ${message}`
  // The classifier reads SQLite's code from `errno`, and takes only one of the three for a unique violation.
  const errno = keyViolations.has(errcode) ? uniqueViolation : errcode
  const cause = Object.assign(new Error(message), { code, errcode, errno })
  return new SqlError.SqlError({
    reason: code === threadGone
      ? new SqlError.ConnectionError({ cause, message: text, operation })
      : SqlError.classifySqliteError(cause, { message: text, operation })
  })
}

const connectionError = (operation: string, message: string, cause: unknown = new Error(message)) =>
  new SqlError.SqlError({ reason: new SqlError.ConnectionError({ cause, message, operation }) })

/** A parameter as SQLite takes it: absent is null, and true and false are 1 and 0. */
const cellOf = (value: unknown): Cell | undefined => {
  switch (typeof value) {
    case "string":
    case "number":
    case "bigint":
      return value
    case "boolean":
      return value ? 1 : 0
    case "undefined":
      return null
    default:
      if (value === null) return null
      if (!(value instanceof Uint8Array)) return undefined
      // A message takes along all of the buffer that a view looks at.
      return value.byteLength === value.buffer.byteLength ? value : new Uint8Array(value)
  }
}

const cellsOf = (operation: string, values: ReadonlyArray<unknown>): ReadonlyArray<Cell> | SqlError.SqlError => {
  const cells: Array<Cell> = []
  for (const value of values) {
    const cell = cellOf(value)
    if (cell === undefined) {
      const type = typeof value === "object" ? value?.constructor.name ?? "bare object" : typeof value
      const message = `parameter ${cells.length + 1} is a ${type}, and SQLite takes null, numbers, strings and bytes`
      return sqlError(operation, ["failed", message, undefined, undefined])
    }
    cells.push(cell)
  }
  return cells
}

const objects: Rows<Row> = (rows, columns, cells) => {
  let at = 0
  while (at < cells.length) {
    const row: Row = {}
    for (const column of columns) row[column] = cells[at++] ?? null
    rows.push(row)
  }
}

const lists: Rows<ReadonlyArray<Cell>> = (rows, { length }, cells) => {
  for (let at = 0; at < cells.length; at += length) rows.push(cells.slice(at, at + length))
}

const transformed = (rows: Effect.Effect<ReadonlyArray<Row>, SqlError.SqlError>, transform: Transform) =>
  transform === undefined ? rows : Effect.map(rows, transform)

/** How a connection hands its requests over. */
interface Door {
  /** Returns an error where there is nobody to take the request. */
  readonly post: (ticket: Ticket) => SqlError.SqlError | undefined
  /** Whether an interruption waits for the answer, so that the next request knows how the one before has ended. */
  readonly awaits: boolean
}

/** Makes a request; `take` is given its answers, and returns what the whole answer is once it has it. */
const ask = <A>(
  { awaits, post }: Door,
  operation: string,
  request: Request,
  take: (reply: Exclude<Reply, Failed>) => A | undefined
): Effect.Effect<A, SqlError.SqlError> => {
  const answer = Effect.callback<A, SqlError.SqlError>((resume) => {
    const ticket: Ticket = {
      request,
      answered: (reply) => {
        if (reply[0] === "failed") return resume(Effect.fail(sqlError(operation, reply)))
        const answer = take(reply)
        if (answer !== undefined) resume(Effect.succeed(answer))
      },
      abandoned: false
    }
    const refusal = post(ticket)
    if (refusal !== undefined) return resume(Effect.fail(refusal))
    return Effect.sync(() => {
      ticket.abandoned = true
    })
  })
  return awaits ? Effect.uninterruptible(answer) : answer
}

const query = <R>(door: Door, sql: string, parameters: ReadonlyArray<unknown>, keep: boolean, add: Rows<R>) =>
  Effect.withFiber<ReadonlyArray<R>, SqlError.SqlError>((fiber) => {
    const cells = cellsOf("execute", parameters)
    if (cells instanceof SqlError.SqlError) return Effect.fail(cells)
    const rows: Array<R> = []
    return ask(door, "execute", ["rows", sql, cells, fiber.getRef(SqlClient.SafeIntegers), keep], (reply) => {
      if (reply[0] !== "rows") return rows
      add(rows, reply[1], reply[2])
      return reply[3] ? undefined : rows
    })
  })

const run = (door: Door, sql: string, parameters: ReadonlyArray<unknown>) =>
  Effect.withFiber<unknown, SqlError.SqlError>((fiber) => {
    const cells = cellsOf("execute", parameters)
    if (cells instanceof SqlError.SqlError) return Effect.fail(cells)
    return ask(door, "execute", ["run", sql, cells, fiber.getRef(SqlClient.SafeIntegers)], (reply) => ({
      changes: reply[1],
      lastInsertRowid: reply[2]
    }))
  })

let cursors = 0

/** The rows of a statement as they are asked for; `apart` as in the request. */
const stream = (door: Door, sql: string, parameters: ReadonlyArray<unknown>, transform: Transform, apart: boolean) =>
  Stream.unwrap(Effect.gen(function*() {
    const cells = cellsOf("stream", parameters)
    if (cells instanceof SqlError.SqlError) return yield* cells
    const bigints = yield* SqlClient.SafeIntegers
    const cursor = ++cursors
    let isMore = true
    const rowsOf = (request: Request): Effect.Effect<ReadonlyArray<Row>, SqlError.SqlError> =>
      ask(door, "stream", request, (reply) => {
        const rows: Array<Row> = []
        if (reply[0] !== "rows") return rows
        objects(rows, reply[1], reply[2])
        isMore = reply[3]
        return transform === undefined ? rows : transform(rows)
      })
    let first = yield* Effect.acquireRelease(
      rowsOf(["open", cursor, sql, cells, bigints, apart]),
      // Where the thread is gone, so is the cursor.
      () => Effect.ignore(rowsOf(["close", cursor]))
    )
    const pull: Effect.Effect<Arr.NonEmptyReadonlyArray<Row>, SqlError.SqlError | Cause.Done> = Effect.suspend(() => {
      const rows = first
      first = []
      if (Arr.isReadonlyArrayNonEmpty(rows)) return Effect.succeed(rows)
      if (!isMore) return Cause.done()
      return Effect.filterOrElse(rowsOf(["pull", cursor]), Arr.isReadonlyArrayNonEmpty, () => Cause.done())
    })
    return Stream.fromPull(Effect.succeed(pull))
  }))

/** A connection that hands its requests over at `door`. */
const connectionOf = (
  door: Door,
  executeStream: SqlConnection.Connection["executeStream"]
): SqlConnection.Connection => ({
  execute: (sql, parameters, transform) => transformed(query(door, sql, parameters, true, objects), transform),
  executeRaw: (sql, parameters) => run(door, sql, parameters),
  executeStream,
  executeValues: (sql, parameters) => query(door, sql, parameters, true, lists),
  executeValuesUnprepared: (sql, parameters) => query(door, sql, parameters, false, lists),
  executeUnprepared: (sql, parameters, transform) =>
    transformed(query(door, sql, parameters, false, objects), transform)
})

/** A connection that a transaction has to itself. */
interface Lease extends SqlConnection.Connection {
  readonly inTransaction: () => boolean
  readonly release: () => void
}

/** The thread of a database: the present one, or a new one where the last one died. */
interface Threads {
  readonly live: () => SqliteThread | SqlError.SqlError
  readonly inTransaction: () => boolean
  readonly opened: Effect.Effect<void, SqlError.SqlError>
  readonly close: Effect.Effect<void>
}

const refusalOf = (filename: string, [, message, code, errcode]: Failed): SqlError.SqlError => {
  const user = process.getuid?.()
  return connectionError(
    "open",
    `cannot open the SQLite database ${filename}: ${message}. Set storage.sql to "sqlite:PATH" where PATH is a database `
      + `file, or a new file, in a folder that this process${
        user === undefined ? "" : ` (user id ${user})`
      } may write to`,
    Object.assign(new Error(message), { code, errcode })
  )
}

const threadsOf = (filename: string): Threads => {
  let thread: SqliteThread | undefined
  let closed = false
  let refusal: SqlError.SqlError | undefined
  let refusedUntil = 0
  let onOpened: (() => void) | undefined

  const begin = (): SqliteThread =>
    start({ filename, busyTimeout }, (reply) => {
      refusal = reply[0] === "failed" ? refusalOf(filename, reply) : undefined
      refusedUntil = performance.now() + reopenPause
      onOpened?.()
    })

  const live = () => {
    if (closed) return connectionError("connect", "the SQLite database has been closed")
    const gone = thread?.gone()
    if (thread !== undefined && gone === undefined) return thread
    if (refusal !== undefined && performance.now() < refusedUntil) return refusal
    if (thread !== undefined && filename === ":memory:") {
      return connectionError(
        "connect",
        `the SQLite database in memory is lost: ${gone}. Restart to begin with an empty one`
      )
    }
    return thread = begin()
  }

  return {
    live,
    inTransaction: () => thread?.inTransaction() === true,
    opened: Effect.callback((resume) => {
      onOpened = () => resume(refusal === undefined ? Effect.void : Effect.fail(refusal))
      live()
    }),
    close: Effect.promise(async () => {
      closed = true
      await thread?.end()
    })
  }
}

const clientOf = Effect.fnUntraced(function*(threads: Threads, inMemory: boolean) {
  /** Whether a transaction, or a stream from memory, has the connection, so that others' requests are held. */
  let leased = false
  let held: Array<Ticket> = []

  const shared: Door = {
    awaits: false,
    post: (ticket) => {
      const thread = threads.live()
      if (thread instanceof SqlError.SqlError) return thread
      if (leased) held.push(ticket)
      else thread.send(ticket)
      return undefined
    }
  }

  /** A stream from a connection of its own need not wait for the transaction that has the other one. */
  const apart: Door = {
    awaits: false,
    post: (ticket) => {
      const thread = threads.live()
      if (thread instanceof SqlError.SqlError) return thread
      thread.send(ticket)
      return undefined
    }
  }

  const streams = yield* Semaphore.make(maxStreams)
  const connection = connectionOf(
    shared,
    (sql, parameters, transform) =>
      Stream.unwrap(Effect.as(streams.takeScoped(1), stream(apart, sql, parameters, transform, true)))
  )

  const lend = Effect.suspend((): Effect.Effect<Lease, SqlError.SqlError> => {
    const thread = threads.live()
    if (thread instanceof SqlError.SqlError) return Effect.fail(thread)
    let released = false
    const door: Door = {
      awaits: true,
      post: (ticket) => {
        if (released) return connectionError("execute", "the transaction that this statement belongs to has ended")
        thread.send(ticket)
        return undefined
      }
    }
    return Effect.succeed({
      ...connectionOf(door, (sql, parameters, transform) => stream(door, sql, parameters, transform, false)),
      inTransaction: thread.inTransaction,
      release: () => {
        released = true
      }
    })
  })

  const release = (lease: Lease): void => {
    lease.release()
    leased = false
    const tickets = held
    held = []
    const thread = threads.live()
    for (const ticket of tickets) {
      if (thread instanceof SqlError.SqlError) {
        ticket.answered(["failed", thread.message, threadGone, undefined])
      } else if (lease.inTransaction()) {
        ticket.answered(["failed", "the transaction before it could not be ended", threadGone, undefined])
      } else {
        thread.send(ticket)
      }
    }
  }

  const acquirers = SqlClient.makeSqliteAcquirers({
    connection: lend,
    semaphore: yield* Semaphore.make(1),
    isTransaction: (lease) => lease.inTransaction()
  })
  const lease = Effect.tap(acquirers.transactionAcquirer, (lease) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        leased = true
      }),
      () => Effect.sync(() => release(lease))
    ))
  return yield* SqlClient.make({
    acquirer: inMemory ? lease : Effect.succeed(connection),
    // Requests outside transactions need not wait for each other, only for whoever has the connection to himself. A
    // transaction that is open without that is one whose end failed: effect's own way then ends it first.
    borrower: (use) =>
      Effect.suspend(() => !leased && threads.inTransaction() ? acquirers.borrower(use) : use(connection)),
    transactionAcquirer: lease,
    onCommitFailure: acquirers.onCommitFailure,
    isTransaction: acquirers.isTransaction,
    driver: "sqlite-node",
    compiler: Statement.makeCompilerSqlite(),
    prepareTransactionControls: true,
    // A transaction that begins by reading and then writes could otherwise fail with "busy" whatever the timeout.
    beginTransaction: "BEGIN IMMEDIATE",
    releaseSavepoint: (name) => `RELEASE SAVEPOINT ${name}`,
    spanAttributes: [["db.system.name", "sqlite"]]
  })
})

/**
 * The database in a file, which is made together with its folder where there is none, or in memory (`:memory:`). Fails
 * with a `ConnectionError` that names the file where it cannot be opened for writing. Where its thread dies, what was asked
 * fails with a `ConnectionError`, and the next use starts another; what was in memory is lost then, and every use says so.
 */
export const layer = (
  options: { readonly filename: string }
): Layer.Layer<SqlClient.SqlClient, SqlError.SqlError> =>
  Layer.effect(
    SqlClient.SqlClient,
    Effect.gen(function*() {
      const inMemory = options.filename === ":memory:"
      const threads = yield* Effect.acquireRelease(
        Effect.sync(() => threadsOf(inMemory ? options.filename : path.resolve(options.filename))),
        ({ close }) => close
      )
      yield* threads.opened
      return yield* clientOf(threads, inMemory)
    })
  ).pipe(Layer.provide(Reactivity.layer))
