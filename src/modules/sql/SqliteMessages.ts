/**
 * What the two sides of the SQLite driver tell each other. Tuples, because a structured clone writes the keys of an object
 * again for each object, and cells in one flat list for the same reason. The thread answers requests in their order, so
 * that they need no numbers.
 */

/** What SQLite stores; integers are `bigint` where they were asked for so. */
export type Cell = null | number | bigint | string | Uint8Array

/** How the thread opens its database. */
export interface OpenOptions {
  /** An absolute path, or `:memory:`. */
  readonly filename: string
  /** How long a statement waits for another process's lock, ms. */
  readonly busyTimeout: number
}

/** One thing for the thread to do. */
export type Request =
  /** Runs a statement and answers with its rows; `keep` keeps it prepared for the next time. */
  | readonly [kind: "rows", sql: string, parameters: ReadonlyArray<Cell>, bigints: boolean, keep: boolean]
  /** Runs a statement and answers with what it changed. */
  | readonly [kind: "run", sql: string, parameters: ReadonlyArray<Cell>, bigints: boolean]
  /**
   * Opens a cursor and answers with its first rows. An `apart` one reads from a connection of its own, so that it sees the
   * database as it was at its start and is in nobody's way however slowly it is read.
   */
  | readonly [
    kind: "open",
    cursor: number,
    sql: string,
    parameters: ReadonlyArray<Cell>,
    bigints: boolean,
    apart: boolean
  ]
  /** Answers with a cursor's next rows. */
  | readonly [kind: "pull", cursor: number]
  | readonly [kind: "close", cursor: number]
  /** Closes the database and ends the thread. */
  | readonly [kind: "end"]

/** The answer to one request. */
export type Reply =
  /**
   * Rows, their cells one after the other. `more` after a `rows` request says that the same request has further answers;
   * after `open` and `pull`, that there may be further rows to pull.
   */
  | readonly [kind: "rows", columns: ReadonlyArray<string>, cells: ReadonlyArray<Cell>, more: boolean]
  | readonly [kind: "run", changes: number | bigint, lastInsertRowid: number | bigint]
  /** `code` is Node's name for the error, and `errcode` SQLite's extended result code (https://sqlite.org/rescode.html). */
  | readonly [kind: "failed", message: string, code: string | undefined, errcode: number | undefined]

/** To the thread: requests, or `next`, which lets it go on after an answer that asked for it. */
export type ToThread = ReadonlyArray<Request> | "next"

/**
 * From the thread: some answers, whether a transaction is open after the last of them, and whether the thread waits for
 * `next` before it answers on.
 */
export type FromThread = readonly [replies: ReadonlyArray<Reply>, inTransaction: boolean, waits: boolean]
