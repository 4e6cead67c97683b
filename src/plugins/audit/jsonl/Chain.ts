/**
 * The chain that makes a file of audit events tamper-evident. Each line is a JSON object that starts with its number `seq`,
 * from 1, and `prev`, the SHA-256 of the line before it without its newline, in hex. Whoever changes, removes, inserts or
 * moves a line would have to write all lines after it anew, which a hash that is kept elsewhere gives away.
 *
 * Two kinds of line are the file's own, and no events of the gateway:
 * - `recovered`: the lines before it ended in one that was torn when the process died; so many bytes of it were dropped.
 * - `discarded`: older files were removed by the configured rotation, up to a line whose number and hash it gives. So a
 *   chain may start in the middle exactly where a later line of it says so.
 */
import { hash as digest } from "node:crypto"
import { type FileHandle, open } from "node:fs/promises"
import type { AuditEvent } from "../../../sdk/AuditSink.ts"
import { encodeDetails } from "../AuditRecord.ts"

/** A line's place in the chain: its number and its hash. */
export interface Link {
  readonly seq: number
  readonly hash: string
}

/** What stands before the first line. */
export const genesis: Link = { seq: 0, hash: "0".repeat(64) }

/** Longer lines are none of the gateway's, bytes. */
export const maxLineBytes = 1 << 20

/** Hash of a line without its newline. */
export const hashLine = (line: string | Uint8Array): string => digest("sha256", line, "hex")

/** What the file says about itself. */
export type ChainNote =
  | { readonly type: "recovered"; readonly at: number; readonly details: { readonly dropped_bytes: number } }
  | {
    readonly type: "discarded"
    readonly at: number
    readonly details: { readonly through_seq: number; readonly head: string }
  }

/** The fields of an event's line, after `seq` and `prev`. */
const eventFields = (event: AuditEvent) => ({
  at: Math.round(event.at),
  type: event.type,
  request_id: event.requestId,
  tenant: event.tenant,
  user: event.user,
  key_id: event.keyId,
  details: encodeDetails(event.details)
})

/** The lines that continue a chain, with their newlines, and the link at its new end. */
export const append = (
  after: Link,
  notes: ReadonlyArray<ChainNote>,
  events: ReadonlyArray<AuditEvent>
): { readonly text: string; readonly head: Link } => {
  let { hash, seq } = after
  let text = ""
  const add = (fields: ChainNote | ReturnType<typeof eventFields>) => {
    const line = JSON.stringify({ seq: ++seq, prev: hash, ...fields })
    hash = hashLine(line)
    text += `${line}\n`
  }
  for (const note of notes) add(note)
  for (const event of events) add(eventFields(event))
  return { text, head: { seq, hash } }
}

/** What a line says of its place, and of a `discarded` beginning. */
export interface ChainLine {
  readonly seq: number
  readonly prev: string
  readonly discarded?: Link
}

const hex = /^[0-9a-f]{64}$/

const isLink = (seq: unknown, hash: unknown): boolean =>
  Number.isSafeInteger(seq) && typeof hash === "string" && hex.test(hash)

const property = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined

/** Reads a line; `undefined` for what is no line of a chain. */
export const parseLine = (line: string): ChainLine | undefined => {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return undefined
  }
  const seq = property(value, "seq")
  const prev = property(value, "prev")
  if (!isLink(seq, prev) || Number(seq) < 1) return undefined
  const place = { seq: Number(seq), prev: String(prev) }
  if (property(value, "type") !== "discarded") return place
  const through = property(property(value, "details"), "through_seq")
  const head = property(property(value, "details"), "head")
  return isLink(through, head) ? { ...place, discarded: { seq: Number(through), hash: String(head) } } : place
}

/** How a file of a chain ends. */
export interface FileEnd {
  /** Bytes of the whole lines. */
  readonly bytes: number
  /** Bytes after the last newline: a line that was torn while it was written. */
  readonly torn: number
  /** Its last whole line, without the newline; absent where there is none. */
  readonly lastLine?: Uint8Array
}

const newline = 0x0a
const blockBytes = 64 * 1024

const readAt = async (file: FileHandle, from: number, length: number): Promise<Uint8Array> => {
  const bytes = new Uint8Array(length)
  const { bytesRead } = await file.read(bytes, 0, length, from)
  return bytes.subarray(0, bytesRead)
}

/** Where the last newline before a place is, or -1. */
const newlineBefore = async (file: FileHandle, place: number): Promise<number> => {
  for (let to = place; to > 0; to = Math.max(0, to - blockBytes)) {
    const from = Math.max(0, to - blockBytes)
    const found = (await readAt(file, from, to - from)).lastIndexOf(newline)
    if (found >= 0) return from + found
  }
  return -1
}

/** Reads the end of a file. Fails as `node:fs` does. */
export const readEnd = async (path: string): Promise<FileEnd> => {
  const file = await open(path, "r")
  try {
    const { size } = await file.stat()
    const end = await newlineBefore(file, size)
    if (end < 0) return { bytes: 0, torn: size }
    const start = await newlineBefore(file, end) + 1
    const length = Math.min(end - start, maxLineBytes)
    return { bytes: end + 1, torn: size - end - 1, lastLine: await readAt(file, start, length) }
  } finally {
    await file.close()
  }
}

/** The link at a file's end; `undefined` for a file without a whole line, `"broken"` where its last one is none of a chain. */
export const linkAtEnd = (end: FileEnd): Link | "broken" | undefined => {
  if (end.lastLine === undefined) return undefined
  const line = parseLine(Buffer.from(end.lastLine).toString("utf8"))
  return line === undefined ? "broken" : { seq: line.seq, hash: hashLine(end.lastLine) }
}
