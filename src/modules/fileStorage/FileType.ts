/**
 * What a content is, by its own bytes: what its sender calls it is never asked. Texts are told apart by their first lines,
 * everything else by `file-type`, which is loaded with the first file that needs it.
 */
import { Effect } from "effect"
import { isUtf8 } from "node:buffer"

/** Bytes of a content's beginning that are looked at. */
export const sampleBytes = 16 * 1024

const unknownType = "application/octet-stream"

// oxlint-disable-next-line no-control-regex -- control characters are what no text has
const controls = new RegExp("[\\u0000-\\u0008\\u000e-\\u001a\\u001c-\\u001f]")

/** The text that a beginning is; `undefined` where it is none. A character that is cut at the end does not count. */
const textOf = (sample: Uint8Array, isWhole: boolean): string | undefined => {
  let end = sample.length
  if (!isWhole) {
    for (let cut = 0; cut < 4 && !isUtf8(sample.subarray(0, end)); cut++) end--
  }
  const bytes = sample.subarray(0, end)
  if (!isUtf8(bytes)) return undefined
  const text = new TextDecoder().decode(bytes)
  return controls.test(text) ? undefined : text
}

const isJson = (text: string): boolean => {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** Columns of a line, 0 for a line of one; a comma within quotes separates nothing. */
const columns = (line: string, separator: string): number => line.replaceAll(/"[^"]*"/g, "").split(separator).length - 1

const isCsv = (lines: ReadonlyArray<string>): boolean =>
  lines.length >= 2 && [",", ";", "\t"].some((separator) => {
    const first = columns(lines[0] ?? "", separator)
    return first > 0 && lines.every((line) => columns(line, separator) === first)
  })

const typeOfText = (text: string, isWhole: boolean): string => {
  const trimmed = text.replace(/^\ufeff/, "").trimStart()
  const start = trimmed.slice(0, 1024).toLowerCase()
  if (/^<(?:!doctype html|html|head|body|script|iframe)\b/.test(start)) return "text/html"
  if (start.startsWith("<")) {
    if (/<svg[\s>]/.test(start)) return "image/svg+xml"
    if (/<html[\s>]/.test(start)) return "text/html"
    return start.startsWith("<?xml") ? "application/xml" : "text/plain"
  }
  if (start.startsWith("{\\rtf")) return "application/rtf"
  // The last line of a beginning is cut.
  const lines = trimmed.split(/\r?\n/).slice(0, isWhole ? undefined : -1).filter((line) => line.trim() !== "")
  if (start.startsWith("{") || start.startsWith("[")) {
    if (lines.length > 1 && lines.slice(0, 20).every(isJson)) return "application/jsonl"
    if (isWhole) return isJson(trimmed) ? "application/json" : isCsv(lines) ? "text/csv" : "text/plain"
    return lines[0] !== undefined && isJson(lines[0]) ? "application/jsonl" : "application/json"
  }
  return isCsv(lines.slice(0, 20)) ? "text/csv" : "text/plain"
}

const startsWith = (sample: Uint8Array, text: string): boolean =>
  Buffer.from(sample.subarray(0, text.length)).toString("latin1") === text

/** The content type of what begins like this; `isWhole` says that nothing follows. */
export const typeOf = (sample: Uint8Array, isWhole: boolean): Effect.Effect<string> => {
  if (sample.length === 0) return Effect.succeed(unknownType)
  // Both are texts in part, and may be in the whole of what is looked at.
  if (startsWith(sample, "%PDF-")) return Effect.succeed("application/pdf")
  if (startsWith(sample, "%!PS")) return Effect.succeed("application/postscript")
  const text = textOf(sample, isWhole)
  if (text !== undefined) return Effect.succeed(typeOfText(text, isWhole))
  return Effect.promise(() => import("file-type")).pipe(
    Effect.flatMap(({ fileTypeFromBuffer }) => Effect.tryPromise(() => fileTypeFromBuffer(sample))),
    Effect.map((found) => found?.mime ?? unknownType),
    // What breaks the reader of a format is not of that format.
    Effect.orElseSucceed(() => unknownType)
  )
}

const extensions: Readonly<Record<string, string>> = {
  "application/json": "json",
  "application/jsonl": "jsonl",
  "application/pdf": "pdf",
  "audio/flac": "flac",
  "audio/mpeg": "mp3",
  "audio/ogg": "ogg",
  "audio/wav": "wav",
  "image/gif": "gif",
  "image/jpeg": "jpg",
  "image/png": "png",
  "image/svg+xml": "svg",
  "image/webp": "webp",
  "text/csv": "csv",
  "text/html": "html",
  "text/plain": "txt",
  "video/mp4": "mp4",
  "video/webm": "webm"
}

const longestName = 200

// Controls, and characters that turn the direction of text round, with which `gpj.exe` looks like `exe.jpg`.
// oxlint-disable-next-line no-control-regex -- see above
const unseen = new RegExp("[\\u0000-\\u001f\\u007f-\\u009f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff]", "g")

/** A name without folders and without what nobody sees; one made up from the type where nothing is left. */
export const safeName = (given: string | undefined, contentType: string): string => {
  const last = (given ?? "").toWellFormed().split(/[/\\]/).at(-1) ?? ""
  const name = last.replaceAll(unseen, "").trim()
  return /^\.*$/.test(name)
    ? `file.${extensions[contentType] ?? "bin"}`
    : Array.from(name).slice(-longestName).join("")
}
