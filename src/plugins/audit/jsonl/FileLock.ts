/**
 * A lock that one process holds on a file, and that the operating system takes back when the process dies, however it dies.
 * Node has no file locks of its own, and a file with a process id in it outlives a killed process, whose id another may have
 * by then. SQLite, which Node brings, locks its files with the system's means (`fcntl`): a transaction that is left open on
 * a small database beside the file is the lock, and a row in it says whose it is.
 */
import { Effect, Schema, type Scope } from "effect"
import { hostname } from "node:os"
import path from "node:path"
import { DatabaseSync } from "node:sqlite"

/** The audit file cannot be used. */
export class AuditFileError extends Schema.TaggedError<AuditFileError>()("AuditFileError", {
  file: Schema.String,
  /** What is wrong, and what to do about it. */
  problem: Schema.String
}) {
  override get message() {
    return `the audit file ${this.file} cannot be used: ${this.problem}`
  }
}

/** What the operating system says, such as `EACCES: permission denied, mkdir '/var/audit'`. */
export const fileProblem = (file: string, cause: unknown): AuditFileError =>
  new AuditFileError({ file, problem: cause instanceof Error ? cause.message : String(cause) })

/** Where the lock of a file is kept: hidden, so that `audit.jsonl*` names the chain's files alone. */
export const lockPath = (file: string): string => path.join(path.dirname(file), `.${path.basename(file)}.lock`)

const ownerOf = (database: DatabaseSync): string => {
  const row = database.prepare("SELECT pid, host FROM owner").get()
  if (row === undefined) return "another process"
  return `process ${String(row["pid"])} on ${String(row["host"])}`
}

/** SQLITE_BUSY and SQLITE_LOCKED: https://www.sqlite.org/rescode.html */
const isHeld = (cause: unknown): boolean =>
  typeof cause === "object" && cause !== null && "errcode" in cause && (cause.errcode === 5 || cause.errcode === 6)

class Held extends Error {}

const lock = (file: string): DatabaseSync => {
  const database = new DatabaseSync(lockPath(file))
  try {
    // A reserved lock keeps other writers out and lets readers see whose it is.
    database.exec("BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS owner (pid INTEGER, host TEXT); DELETE FROM owner")
    database.prepare("INSERT INTO owner (pid, host) VALUES (?, ?)").run(process.pid, hostname())
    database.exec("COMMIT; BEGIN IMMEDIATE")
    return database
  } catch (cause) {
    try {
      throw isHeld(cause) ? new Held(ownerOf(database), { cause }) : cause
    } finally {
      database.close()
    }
  }
}

/** Holds the lock of a file until the scope ends. */
export const hold = (file: string): Effect.Effect<void, AuditFileError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.try({
      try: () => lock(file),
      catch: (cause) =>
        cause instanceof Held
          ? new AuditFileError({
            file,
            problem: `it is in use by ${cause.message}; each process needs an audit file of its own`
          })
          : fileProblem(lockPath(file), cause)
    }),
    (database) => Effect.sync(() => database.close())
  )
