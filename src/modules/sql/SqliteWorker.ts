/**
 * The thread that owns a SQLite database. It is started by `SqliteThread.ts` as a file of its own, and imports nothing but
 * Node, so that it starts fast and without the rest of the program.
 *
 * Its answers come in portions that the main thread takes in well under a millisecond, and no more than one portion's
 * worth is ever on its way: Node hands a thread up to a thousand waiting messages without going back to the event loop
 * (`MessagePort::OnMessage`), so that a large result would otherwise stop the whole process.
 */
import { closeSync, existsSync, mkdirSync, openSync } from "node:fs"
import path from "node:path"
import { DatabaseSync, type StatementSync } from "node:sqlite"
import { parentPort, workerData } from "node:worker_threads"
import type { Cell, FromThread, OpenOptions, Reply, Request, ToThread } from "./SqliteMessages.ts"

/** How many statements are kept prepared. */
const maxPrepared = 256
/** What the main thread takes at once, bytes; the work on each cell and on each answer counts as some more of them. */
const portion = 64 * 1024
const cellCost = 24
const replyCost = 256
/**
 * The most that a result may weigh, in the same measure; what is larger is to be read as a stream. Without it a careless
 * query would end not this thread but the process: V8 aborts it where memory runs out within `node:sqlite` (seen with
 * Node 24.21, and with `all` at any limit on this thread's heap).
 */
const maxResult = 128 * 1024 * 1024
/** Answers are not held back for longer than this to go with others, ms. */
const longestHold = 1
/** Blobs from here on are moved instead of copied, bytes. */
const movedFrom = 4096

const { busyTimeout, filename }: OpenOptions = workerData

if (parentPort === null) throw new Error("SqliteWorker.ts is started as a thread by SqliteThread.ts")
const port = parentPort

const failure = (cause: unknown): Reply => {
  if (!(cause instanceof Error)) return ["failed", String(cause), undefined, undefined]
  return [
    "failed",
    cause.message,
    "code" in cause && typeof cause.code === "string" ? cause.code : undefined,
    "errcode" in cause && typeof cause.errcode === "number" ? cause.errcode : undefined
  ]
}

const isBusy = (cause: unknown): boolean => {
  const [, , , errcode] = failure(cause)
  return typeof errcode === "number" && (errcode & 0xff) === 5
}

/** SQLite does not wait for a lock in all that it does (the change to WAL answers "busy" at once), so it is asked again. */
const patiently = (step: () => void): void => {
  const until = performance.now() + busyTimeout
  for (;;) {
    try {
      return step()
    } catch (cause) {
      if (!isBusy(cause) || performance.now() >= until) throw cause
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)
    }
  }
}

/** Node's own `recursive` never comes back where a file system answers ENOENT, as /proc does (seen with Node 24.21). */
const makeFolder = (folder: string): void => {
  const parent = path.dirname(folder)
  if (parent === folder || existsSync(folder)) return
  makeFolder(parent)
  try {
    mkdirSync(folder, { mode: 0o700 })
  } catch (cause) {
    // Another process may have made it in between.
    if (!existsSync(folder)) throw cause
  }
}

const open = (): DatabaseSync => {
  if (filename === ":memory:") return new DatabaseSync(filename)
  makeFolder(path.dirname(filename))
  // SQLite itself would make it readable by all. It holds names of users, and hashes of keys.
  if (!existsSync(filename)) closeSync(openSync(filename, "a", 0o600))
  const database = new DatabaseSync(filename, { timeout: busyTimeout })
  try {
    patiently(() => database.exec("PRAGMA journal_mode = WAL"))
    database.exec("PRAGMA synchronous = NORMAL")
    // A database that cannot be written to says so now, not at the first request of a caller.
    patiently(() => database.exec("BEGIN IMMEDIATE; ROLLBACK"))
    return database
  } catch (cause) {
    database.close()
    throw cause
  }
}

/** Space, semicolons and comments. */
const nothingMore = /^(?:[\s;]|--[^\n]*(?:\n|$)|\/\*(?:[^*]|\*(?!\/))*\*\/)*$/

const prepare = (database: DatabaseSync, sql: string): Prepared => {
  const statement = database.prepare(sql)
  // SQLite reads the first statement and leaves the rest alone, where PostgreSQL refuses the whole.
  if (!nothingMore.test(sql.slice(statement.sourceSQL.length))) {
    throw new Error("more than one statement in one text")
  }
  statement.setReturnArrays(true)
  return { statement, givesRows: statement.columns().length > 0 }
}

/** What goes into one answer. */
interface Portion {
  readonly cells: Array<Cell>
  readonly moved: Array<ArrayBuffer>
  weight: number
  /** Whether it was full before the rows were at an end. */
  more: boolean
}

interface Cursor {
  readonly statement: StatementSync
  readonly rows: Iterator<unknown>
  readonly apart: DatabaseSync | undefined
}

/** What is still to be given out in answer to one request. */
interface Rest {
  readonly columns: ReadonlyArray<string>
  readonly portions: ReadonlyArray<Portion>
  next: number
}

interface Prepared {
  readonly statement: StatementSync
  readonly givesRows: boolean
}

/** `setReturnArrays(true)` makes rows lists of cells, which the types of `node:sqlite` do not say. */
const isRow = (row: unknown): row is ReadonlyArray<Cell> => Array.isArray(row)

const columnsOf = (statement: StatementSync): ReadonlyArray<string> => statement.columns().map(({ name }) => name)

const sizeOf = (cell: Cell): number =>
  typeof cell === "string" ? cell.length : cell instanceof Uint8Array ? cell.byteLength : 0

const fill = (rows: Iterator<unknown>): Portion => {
  const filled: Portion = { cells: [], moved: [], weight: 0, more: true }
  while (filled.more && filled.weight < portion) {
    const { done, value } = rows.next()
    filled.more = done !== true
    if (!isRow(value)) continue
    for (const cell of value) {
      const size = sizeOf(cell)
      filled.weight += size + cellCost
      filled.cells.push(cell)
      if (size >= movedFrom && cell instanceof Uint8Array && cell.buffer instanceof ArrayBuffer) {
        filled.moved.push(cell.buffer)
      }
    }
  }
  return filled
}

const fillAll = (rows: Iterator<unknown>): ReadonlyArray<Portion> => {
  const portions: Array<Portion> = []
  let weight = 0
  let more = true
  try {
    while (more) {
      const next = fill(rows)
      portions.push(next)
      weight += next.weight
      more = next.more
      if (weight > maxResult) {
        throw new Error("the result is too large to be held in memory; read it as a stream, or in pages")
      }
    }
    return portions
  } catch (cause) {
    // A statement that is left in the middle keeps its lock on what it reads.
    rows.return?.()
    throw cause
  }
}

const serve = (database: DatabaseSync): void => {
  const prepared = new Map<string, Prepared>()
  const cursors = new Map<number, Cursor>()
  const requests: Array<Request> = []
  let rest: Rest | undefined
  let waits = false
  let replies: Array<Reply> = []
  let moved: Array<ArrayBuffer> = []
  /** What has been put into answers since the main thread last said `next`, bytes. */
  let filled = 0

  const send = (): void => {
    if (replies.length === 0) return
    const message: FromThread = [replies, database.isOpen && database.isTransaction, waits]
    port.postMessage(message, moved)
    replies = []
    moved = []
  }

  const kept = (sql: string): Prepared => {
    let found = prepared.get(sql)
    if (found === undefined) {
      found = prepare(database, sql)
      const oldest = prepared.keys().next()
      if (prepared.size >= maxPrepared && oldest.done !== true) prepared.delete(oldest.value)
    } else {
      prepared.delete(sql)
    }
    prepared.set(sql, found)
    return found
  }

  const give = (columns: ReadonlyArray<string>, portion: Portion): Reply => {
    filled += portion.weight
    for (const buffer of portion.moved) moved.push(buffer)
    return ["rows", columns, portion.cells, portion.more]
  }

  const pull = ({ rows, statement }: Cursor): Reply => give(columnsOf(statement), fill(rows))

  const close = (id: number): void => {
    const cursor = cursors.get(id)
    cursors.delete(id)
    cursor?.rows.return?.()
    cursor?.apart?.close()
  }

  /** Does one thing; undefined where its answer comes in portions. */
  const perform = (request: Request): Reply | undefined => {
    switch (request[0]) {
      case "rows": {
        const [, sql, parameters, bigints, keep] = request
        const { givesRows, statement } = keep ? kept(sql) : prepare(database, sql)
        if (!givesRows) {
          statement.run(...parameters)
          return ["rows", [], [], false]
        }
        statement.setReadBigInts(bigints)
        const portions = fillAll(statement.iterate(...parameters))
        // Read after the rows, because a change of the table since it was prepared shows only then.
        rest = { columns: columnsOf(statement), portions, next: 0 }
        return undefined
      }
      case "run": {
        const [, sql, parameters, bigints] = request
        const { statement } = kept(sql)
        statement.setReadBigInts(bigints)
        const { changes, lastInsertRowid } = statement.run(...parameters)
        return ["run", changes, lastInsertRowid]
      }
      case "open": {
        const [, id, sql, parameters, bigints, isApart] = request
        const apart = isApart ? new DatabaseSync(filename, { readOnly: true, timeout: busyTimeout }) : undefined
        try {
          const { statement } = prepare(apart ?? database, sql)
          statement.setReadBigInts(bigints)
          const cursor = { statement, rows: statement.iterate(...parameters), apart }
          const first = pull(cursor)
          cursors.set(id, cursor)
          return first
        } catch (cause) {
          apart?.close()
          throw cause
        }
      }
      case "pull": {
        const cursor = cursors.get(request[1])
        if (cursor === undefined) throw new Error("the rows of this statement have been closed")
        return pull(cursor)
      }
      case "close":
        close(request[1])
        return ["rows", [], [], false]
      case "end":
        for (const id of cursors.keys()) close(id)
        database.close()
        return ["rows", [], [], false]
    }
  }

  const work = (): void => {
    let began = performance.now()
    let index = 0
    while (!waits && (rest !== undefined || index < requests.length)) {
      if (rest === undefined) {
        const request = requests[index++]
        if (request === undefined) break
        try {
          const reply = perform(request)
          if (reply !== undefined) replies.push(reply)
        } catch (cause) {
          replies.push(failure(cause))
        }
        if (request[0] === "end") {
          send()
          return port.close()
        }
      }
      if (rest !== undefined) {
        const portion = rest.portions[rest.next++]
        if (portion !== undefined) replies.push(give(rest.columns, portion))
        if (rest.next >= rest.portions.length) rest = undefined
      }
      filled += replyCost
      waits = filled >= portion
      const now = performance.now()
      if (waits || now - began >= longestHold) {
        send()
        began = now
      }
    }
    requests.splice(0, index)
    send()
  }

  port.on("message", (message: ToThread) => {
    if (message === "next") {
      waits = false
      filled = 0
    } else {
      for (const request of message) requests.push(request)
    }
    work()
  })
}

try {
  const database = open()
  serve(database)
  const opened: FromThread = [[["rows", [], [], false]], false, false]
  port.postMessage(opened)
} catch (cause) {
  const refused: FromThread = [[failure(cause)], false, false]
  port.postMessage(refused)
}
