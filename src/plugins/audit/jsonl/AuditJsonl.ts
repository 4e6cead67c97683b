/**
 * Audit events in a file, one JSON object a line, each line bound to the one before by its hash (see `Chain.ts`). A batch is
 * on the disk, flushed, when its write returns; one that fails leaves nothing behind. `verify` finds what was tampered with.
 */
import { type Array as Arr, Clock, Effect, Layer, type Scope, Semaphore } from "effect"
import { constants } from "node:fs"
import {
  access,
  type FileHandle,
  mkdir,
  open,
  readdir,
  realpath,
  rename,
  stat,
  truncate,
  unlink
} from "node:fs/promises"
import path from "node:path"
import * as AuditSink from "../../../sdk/AuditSink.ts"
import { SinkError } from "../../../sdk/UsageSink.ts"
import * as Chain from "./Chain.ts"
import { AuditFileError, fileProblem, hold } from "./FileLock.ts"

export { AuditFileError } from "./FileLock.ts"

/** Options of the file. */
export interface AuditJsonlOptions {
  /** The file; its directory is made where it is missing. Rotated files stand beside it, as `PATH.1` (the newest) and on. */
  readonly path: string
  /** A new file is begun before this one would grow beyond so many bytes; default 128 MiB. One batch may be larger. */
  readonly maxBytes?: number
  /** Rotated files that are kept; older ones are deleted, which the chain takes note of. Default: all of them. */
  readonly keep?: number
}

const defaultMaxBytes = 128 * 1024 * 1024
/** Whoever may read it sees who did what; nobody but the gateway's own user needs to. */
const mode = 0o600

const isMissing = (cause: unknown): boolean =>
  typeof cause === "object" && cause !== null && "code" in cause && cause.code === "ENOENT"

const exists = (file: string): Promise<boolean> => access(file).then(() => true, () => false)

/** Makes the names in a directory last; not every system can. */
const syncDirectory = async (file: string): Promise<void> => {
  const directory = await open(path.dirname(file), "r").catch(() => undefined)
  await directory?.sync().catch(() => {})
  await directory?.close()
}

/** The rotated files' numbers that exist, ascending. */
const rotatedNumbers = async (file: string): Promise<Array<number>> => {
  const prefix = `${path.basename(file)}.`
  const names = await readdir(path.dirname(file))
  return names
    .filter((name) => name.startsWith(prefix) && /^[1-9]\d{0,8}$/.test(name.slice(prefix.length)))
    .map((name) => Number(name.slice(prefix.length)))
    .sort((a, b) => a - b)
}

/** The file as it is written to. Its methods must not run at the same time. */
class ChainFile {
  readonly #path: string
  readonly #maxBytes: number
  readonly #keep: number
  #head: Chain.Link
  /** Bytes that are known to be good. */
  #bytes: number
  /** Whether a write failed and what it left could not be taken away. */
  #dirty = false
  #handle: FileHandle | undefined
  /** The notes that the next batch has to begin with. */
  #notes: ReadonlyArray<Chain.ChainNote>
  /** Whether files wait to be deleted until their note is written. */
  #discards = false

  constructor(options: AuditJsonlOptions, start: {
    readonly head: Chain.Link
    readonly bytes: number
    readonly notes: ReadonlyArray<Chain.ChainNote>
  }) {
    this.#path = options.path
    this.#maxBytes = options.maxBytes ?? defaultMaxBytes
    this.#keep = options.keep ?? Infinity
    this.#head = start.head
    this.#bytes = start.bytes
    this.#notes = start.notes
  }

  /** Appends events and has them on the disk when it is done. Throws as `node:fs` does, with nothing appended. */
  async append(events: ReadonlyArray<AuditSink.AuditEvent>, now: number): Promise<void> {
    if (this.#dirty) await this.#clean(this.#handle ?? await this.#open())
    let { head, text } = Chain.append(this.#head, this.#notes, events)
    if (this.#bytes > 0 && this.#bytes + Buffer.byteLength(text) > this.#maxBytes) {
      const discarded = await this.#rotate(now)
      if (discarded !== undefined) {
        this.#notes = [...this.#notes.filter(({ type }) => type !== "discarded"), discarded]
        this.#discards = true
        ;({ head, text } = Chain.append(this.#head, this.#notes, events))
      }
    }
    const bytes = Buffer.from(text)
    const handle = this.#handle ?? await this.#open()
    try {
      await handle.appendFile(bytes)
      await handle.datasync()
    } catch (cause) {
      this.#dirty = true
      await this.#clean(handle).catch(() => {})
      throw cause
    }
    this.#bytes += bytes.length
    this.#head = head
    this.#notes = []
    if (this.#discards) await this.#discard()
  }

  /** Takes away what a failed write left. */
  async #clean(handle: FileHandle): Promise<void> {
    await handle.truncate(this.#bytes)
    this.#dirty = false
  }

  async close(): Promise<void> {
    const handle = this.#handle
    this.#handle = undefined
    await handle?.close()
  }

  async #open(): Promise<FileHandle> {
    const { O_APPEND, O_CREAT, O_RDWR } = constants
    const handle = await open(this.#path, O_RDWR | O_APPEND | O_CREAT, mode)
    this.#handle = handle
    if (this.#bytes === 0) await syncDirectory(this.#path)
    return handle
  }

  /**
   * Puts the file away as `.1`. Says which lines are to be deleted for it, if any. It may fail at any step and be called
   * again: files are moved on only as far as the next free number.
   */
  async #rotate(now: number): Promise<Chain.ChainNote | undefined> {
    await this.close()
    const taken = new Set(await rotatedNumbers(this.#path))
    let free = 1
    while (taken.has(free)) free++
    for (let number = free; number > 1; number--) await rename(`${this.#path}.${number - 1}`, `${this.#path}.${number}`)
    await rename(this.#path, `${this.#path}.1`)
    this.#bytes = 0
    await syncDirectory(this.#path)
    const beyond = (await rotatedNumbers(this.#path)).find((number) => number > this.#keep)
    if (beyond === undefined) return undefined
    const end = Chain.linkAtEnd(await Chain.readEnd(`${this.#path}.${beyond}`))
    return end === undefined || end === "broken"
      ? undefined
      : { type: "discarded", at: now, details: { through_seq: end.seq, head: end.hash } }
  }

  /** Deletes the files whose going is noted in the chain. One that cannot be deleted is there at the next rotation, too. */
  async #discard(): Promise<void> {
    this.#discards = false
    for (const number of await rotatedNumbers(this.#path).catch(() => [])) {
      if (number > this.#keep) await unlink(`${this.#path}.${number}`).catch(() => {})
    }
  }
}

const broken = (file: string) =>
  new AuditFileError({
    file,
    problem: "its last line is none of an audit chain; run `llm-gateway audit verify` on it, and move it away"
  })

/** The file itself, wherever links lead, so that all ways to it meet the same lock. */
const locate = async (given: string): Promise<string> => {
  // The database may come to stand in the same folder, and nobody else needs to read either.
  await mkdir(path.dirname(given), { recursive: true, mode: 0o700 })
  const file = path.join(await realpath(path.dirname(given)), path.basename(given))
  const found = await stat(file).catch((cause: unknown) => {
    if (isMissing(cause)) return undefined
    throw cause
  })
  if (found === undefined) return file
  if (!found.isFile()) throw new AuditFileError({ file, problem: "it is no regular file" })
  return realpath(file)
}

/** Goes on where the file ends, or where the newest rotated one does. */
const resume = async (options: AuditJsonlOptions, now: number): Promise<ChainFile> => {
  const file = options.path
  const end = await exists(file) ? await Chain.readEnd(file) : { bytes: 0, torn: 0 }
  if (end.torn > 0) await truncate(file, end.bytes)
  const link = Chain.linkAtEnd(end)
  if (link === "broken") throw broken(file)
  const before = `${file}.1`
  const earlier = link === undefined && await exists(before) ? Chain.linkAtEnd(await Chain.readEnd(before)) : undefined
  if (earlier === "broken") throw broken(before)
  const chain = new ChainFile(options, {
    head: link ?? earlier ?? Chain.genesis,
    bytes: end.bytes,
    notes: end.torn === 0 ? [] : [{ type: "recovered", at: now, details: { dropped_bytes: end.torn } }]
  })
  // Written at once: a file that cannot be written is better known at the start.
  await chain.append([], now)
  return chain
}

const make = Effect.fnUntraced(function*(
  options: AuditJsonlOptions
): Effect.fn.Return<AuditSink.AuditSink, AuditFileError, Scope.Scope> {
  const clock = yield* Clock.Clock
  const attempt = <A>(work: () => Promise<A>) =>
    Effect.tryPromise({
      try: work,
      catch: (cause) => cause instanceof AuditFileError ? cause : fileProblem(options.path, cause)
    })
  const file = yield* attempt(() => locate(options.path))
  yield* hold(file)
  const one = yield* Semaphore.make(1)
  const chain = yield* Effect.acquireRelease(
    attempt(() => resume({ ...options, path: file }, clock.currentTimeMillisUnsafe())),
    (chain) => one.withPermit(Effect.promise(() => chain.close()))
  )
  return {
    name: "jsonl",
    // What the file system is doing cannot be called back; a write that was left halfway would tear a line.
    write: (events: Arr.NonEmptyReadonlyArray<AuditSink.AuditEvent>) =>
      Effect.uninterruptible(one.withPermit(
        Effect.tryPromise({
          try: () => chain.append(events, clock.currentTimeMillisUnsafe()),
          catch: (cause) => new SinkError({ sink: "jsonl", message: fileProblem(file, cause).message })
        })
      ))
  }
})

/**
 * Writes audit events to a file. One process can use a file at a time. Fails where the file cannot be used: another process
 * has it, it cannot be written, or its end is none of a chain.
 */
export const layer = (
  options: AuditJsonlOptions
): Layer.Layer<never, AuditFileError, AuditSink.AuditSinkRegistry> =>
  Layer.unwrap(Effect.map(make(options), AuditSink.layer))
