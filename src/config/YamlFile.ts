/**
 * A YAML text as plain values, with the place of every key and value in it and with the environment put in. YAML 1.2,
 * core schema, one document. Everything that could surprise is refused and located: duplicate keys, `__proto__`, custom
 * tags, merge keys, recursive or too many aliases, too deep nesting.
 */
import { Result } from "effect"
import { isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from "yaml"
import { bounded, type Path, type Problem, writePath } from "./ConfigError.ts"
import { type EnvironmentRecord, interpolate } from "./Interpolation.ts"

/** The largest configuration file, in UTF-16 code units; far above any real one. */
export const maxFileSize = 1024 * 1024

const maxDepth = 32
const maxAliases = 100
const maxValues = 50_000

/** A place in the file, counted from 1. */
export interface Position {
  readonly line: number
  readonly column: number
}

/** What a YAML text holds. */
export interface YamlFile {
  /** Plain JavaScript: objects, arrays, strings, numbers, booleans and null. */
  readonly value: unknown
  /** Syntax and interpolation problems; with a syntax problem, `value` is not to be used. */
  readonly problems: ReadonlyArray<Problem>
  /** Whether the text could be read as YAML at all. */
  readonly readable: boolean
  /** The place of the value at a path, or of the nearest thing around it. */
  readonly positionOf: (path: Path) => Position
  /** The place of the key at a path, or of the nearest thing around it. */
  readonly keyPositionOf: (path: Path) => Position
  /** Whether the text at a path came from the environment at least in part. */
  readonly isReplaced: (path: Path) => boolean
  /** The line of every key, by written path. */
  readonly lines: ReadonlyMap<string, number>
}

const start: Position = { line: 1, column: 1 }
const id = (path: Path): string => JSON.stringify(path)

const unreadable = (problems: ReadonlyArray<Problem>): YamlFile => ({
  value: undefined,
  problems,
  readable: false,
  positionOf: () => start,
  keyPositionOf: () => start,
  isReplaced: () => false,
  lines: new Map()
})

/** Parses a YAML text. Never throws. */
export const parseYaml = (text: string, env: EnvironmentRecord): YamlFile => {
  if (text.length > maxFileSize) {
    return unreadable([{ ...start, path: "", message: "the file is larger than 1 MiB" }])
  }
  const counter = new LineCounter()
  const at = (offset: number): Position => {
    const { line, col } = counter.linePos(offset)
    return line === 0 ? start : { line, column: col }
  }
  // A text of brackets alone can exhaust the stack of the library, which recurses.
  const parsed = Result.try(() =>
    parseDocument(text, {
      lineCounter: counter,
      prettyErrors: false,
      version: "1.2",
      schema: "core",
      resolveKnownTags: false,
      uniqueKeys: false,
      stringKeys: true,
      logLevel: "error"
    })
  )
  if (Result.isFailure(parsed)) {
    return unreadable([{ ...start, path: "", message: "the file cannot be read as YAML; is it nested very deeply?" }])
  }
  const document = parsed.success
  const broken = [...document.errors, ...document.warnings].sort((a, b) => a.pos[0] - b.pos[0])
  if (broken.length > 0) {
    const firsts = new Map<number, Problem>()
    for (const error of broken) {
      const position = at(error.pos[0])
      // What follows the first error of a line is mostly its echo.
      if (firsts.has(position.line)) continue
      const lineStart = counter.lineStarts[position.line - 1] ?? 0
      const line = text.slice(lineStart, counter.lineStarts[position.line] ?? text.length)
      const hint = line.includes("${") ? "; inside { } and [ ] a ${NAME} needs quotes around it" : ""
      // The library recurses and reports its own exhausted stack as a syntax error.
      const message = /stack/i.test(error.message) ? "nested too deeply" : error.message
      firsts.set(position.line, { ...position, path: "", message: bounded(`YAML: ${message}`) + hint })
    }
    return unreadable(Array.from(firsts.values()))
  }

  const problems: Array<Problem> = []
  const values = new Map<string, Position>()
  const keys = new Map<string, Position>()
  const lines = new Map<string, number>()
  const replaced = new Set<string>()
  const anchors = new Map<string, Node>()
  const targets = new Map<Node, Node | undefined>()
  const open = new Set<Node>()
  let aliases = 0
  let count = 0
  let exhausted = false

  const report = (position: Position, path: Path, message: string): void => {
    problems.push({ ...position, path: writePath(path), message })
  }

  const read = (node: Node | null, path: Path, position: Position): unknown => {
    if (exhausted || node === null) return null
    count += 1
    if (count > maxValues || path.length > maxDepth) {
      exhausted = true
      report(position, path, count > maxValues ? "the file holds too many values" : "nested too deeply")
      return null
    }
    if (isAlias(node)) {
      aliases += 1
      if (aliases > maxAliases) {
        exhausted = true
        report(position, path, `more than ${maxAliases} aliases`)
        return null
      }
      // An alias means the anchor that was last defined before it, also where it is reached again through another alias.
      if (!targets.has(node)) targets.set(node, anchors.get(node.source))
      const target = targets.get(node)
      if (target === undefined || open.has(target)) {
        report(position, path, target === undefined ? "an alias without its anchor" : "an alias inside its own anchor")
        return null
      }
      return read(target, path, position)
    }
    if (node.anchor !== undefined) anchors.set(node.anchor, node)
    if (isScalar(node)) {
      if (typeof node.value !== "string") return node.value
      const result = interpolate(node.value, env)
      if (Result.isFailure(result)) {
        replaced.add(id(path))
        for (const message of result.failure) report(position, path, message)
        return ""
      }
      if (result.success.replaced) replaced.add(id(path))
      return result.success.text
    }
    open.add(node)
    const value = isMap(node) ? readMap(node.items, path) : isSeq(node) ? readList(node.items, path) : null
    open.delete(node)
    return value
  }

  const offsetOf = (node: unknown, otherwise: Position): Position =>
    isScalar(node) || isMap(node) || isSeq(node) || isAlias(node)
      ? node.range === undefined || node.range === null ? otherwise : at(node.range[0])
      : otherwise

  const nodeOf = (node: unknown): Node | null =>
    isScalar(node) || isMap(node) || isSeq(node) || isAlias(node) ? node : null

  const readMap = (items: ReadonlyArray<{ key: unknown; value: unknown }>, path: Path): unknown => {
    const object: Record<string, unknown> = {}
    for (const pair of items) {
      const key = isScalar(pair.key) ? String(pair.key.value) : undefined
      const keyPosition = offsetOf(pair.key, start)
      if (key === undefined) {
        report(keyPosition, path, "a key must be a plain text")
        continue
      }
      const inner = [...path, key]
      if (key === "__proto__") {
        report(keyPosition, inner, "this key is not allowed")
        continue
      }
      if (key === "<<") {
        report(
          keyPosition,
          inner,
          "merge keys are not supported; write the keys out, or use an alias for a whole value"
        )
        continue
      }
      const first = keys.get(id(inner))
      if (Object.hasOwn(object, key) && first !== undefined) {
        report(keyPosition, inner, `this key is given twice, first in line ${first.line}`)
        continue
      }
      const position = isScalar(pair.value) || isAlias(pair.value) ? offsetOf(pair.value, keyPosition) : keyPosition
      keys.set(id(inner), keyPosition)
      values.set(id(inner), position)
      lines.set(writePath(inner), keyPosition.line)
      object[key] = read(nodeOf(pair.value), inner, position)
    }
    return object
  }

  const readList = (items: ReadonlyArray<unknown>, path: Path): unknown =>
    items.map((item, index) => {
      const inner = [...path, index]
      const position = offsetOf(item, values.get(id(path)) ?? start)
      values.set(id(inner), position)
      lines.set(writePath(inner), position.line)
      return read(nodeOf(item), inner, position)
    })

  const root = nodeOf(document.contents)
  const value = root === null ? {} : read(root, [], start)

  const around = (index: ReadonlyMap<string, Position>, path: Path): Position => {
    for (let length = path.length; length > 0; length--) {
      const key = id(path.slice(0, length))
      const found = (length === path.length ? index.get(key) : undefined) ?? keys.get(key) ?? values.get(key)
      if (found !== undefined) return found
    }
    return start
  }
  return {
    // A file of comments alone is an empty configuration.
    value: value === null && problems.length === 0 ? {} : value,
    problems,
    readable: !exhausted,
    positionOf: (path) => around(values, path),
    keyPositionOf: (path) => around(keys, path),
    isReplaced: (path) => replaced.has(id(path)),
    lines
  }
}
