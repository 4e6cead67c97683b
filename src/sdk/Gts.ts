/**
 * Identifiers of the Global Type System (https://github.com/GlobalTypeSystem/gts-spec, 0.7 and later): their grammar,
 * how they match, and the tool names made from them. Pure text; the schemas behind the identifiers are the
 * TypeRegistry's.
 *
 * `gts.<segment>~<segment>~…`, base type first, where a segment is `vendor.package.namespace.type.vMAJOR[.MINOR]`. A
 * trailing `~` makes it a type, without it it is an instance of the type to its left.
 */
import { Result } from "effect"
import { InvalidSchemaId } from "./GatewayError.ts"

/** One segment of an identifier. Versions stay decimal text: the grammar does not bound them. */
export interface Segment {
  readonly vendor: string
  readonly package: string
  /** `_` where there is none. */
  readonly namespace: string
  readonly type: string
  readonly major: string
  /** Absent: any minor version of that major. */
  readonly minor?: string
}

/** An identifier, taken apart. */
export interface GtsId {
  /** The identifier as it is written, without `gts://`. */
  readonly id: string
  /** `type`: a schema, written with a trailing `~`. `instance`: a value of the type to its left. */
  readonly kind: "type" | "instance"
  /** At least one; the base type is the first. */
  readonly segments: readonly [Segment, ...ReadonlyArray<Segment>]
  /** What an anonymous instance ends in instead of a segment of its own. */
  readonly uuid?: string
}

/** The longest identifier, in characters. */
export const maxLength = 1024

const prefix = "gts."
const uriPrefix = "gts://"

const name = /^[a-z_][a-z0-9_]*$/
const version = /^(?:0|[1-9][0-9]*)$/
const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/** Bounds what an error repeats of the caller's text. */
const shown = (text: string): string => text.length > 200 ? `${text.slice(0, 200)}…` : text

const fields = ["vendor", "package", "namespace", "type"] as const

/** What is wrong with a piece of an identifier, and how far into that piece. */
interface Problem {
  readonly problem: string
  readonly offset: number
}

const parseSegment = (text: string): Result.Result<Segment, Problem> => {
  const broken = (problem: string, offset: number) => Result.fail({ problem, offset })
  if (text === "") return broken("the segment is empty", 0)
  const parts = text.split(".")
  let offset = 0
  for (let i = 0; i < fields.length; i++) {
    const field = fields[i] ?? ""
    const part = parts[i]
    if (part === undefined) {
      return broken(`the ${field} is missing; a segment is vendor.package.namespace.type.vN`, text.length)
    }
    if (part === "") return broken(`the ${field} is empty`, offset)
    if (part === "_" && field !== "namespace") {
      return broken(`"_" stands for the namespace only, not for the ${field}`, offset)
    }
    if (!name.test(part)) {
      return broken(
        `the ${field} "${shown(part)}" must begin with a to z or "_" and go on with a to z, 0 to 9 or "_"`,
        offset
      )
    }
    offset += part.length + 1
  }
  const [vendor = "", pkg = "", namespace = "", type = "", major, minor] = parts
  if (major === undefined) {
    return broken("the version is missing; a segment ends in vMAJOR or vMAJOR.MINOR", text.length)
  }
  if (!major.startsWith("v") || !version.test(major.slice(1))) {
    return broken(
      `the version "${shown(major)}" must be v followed by 0 or a positive integer without leading zeros`,
      offset
    )
  }
  if (minor !== undefined && !version.test(minor)) {
    return broken(
      `the minor version "${shown(minor)}" must be 0 or a positive integer without leading zeros`,
      offset + major.length + 1
    )
  }
  if (parts.length > 6) {
    return broken("nothing may follow the minor version", offset + major.length + 1 + (minor?.length ?? 0))
  }
  return Result.succeed({
    vendor,
    package: pkg,
    namespace,
    type,
    major: major.slice(1),
    ...(minor === undefined ? {} : { minor })
  })
}

/**
 * Parses an identifier, written `gts.…`. Fails with the rule that it breaks, and where: the offset in characters from
 * the start, and the segment, counted from 1.
 */
export const parse = (id: string): Result.Result<GtsId, InvalidSchemaId> => {
  const broken = (problem: string, offset: number, segment?: number) => {
    const where = segment === undefined ? `at offset ${offset}` : `in segment ${segment} at offset ${offset}`
    return Result.fail(
      new InvalidSchemaId({ id: shown(id), message: `"${shown(id)}" is no GTS identifier: ${problem} (${where})` })
    )
  }
  if (id.length > maxLength) return broken(`it is longer than ${maxLength} characters`, maxLength)
  if (!id.startsWith(prefix)) return broken(`it must begin with "${prefix}"`, 0)
  const isType = id.endsWith("~")
  const pieces = (isType ? id.slice(prefix.length, -1) : id.slice(prefix.length)).split("~")
  const segments: Array<Segment> = []
  let tail: string | undefined
  let offset = prefix.length
  for (let i = 0; i < pieces.length; i++) {
    const piece = pieces[i] ?? ""
    if (i > 0 && uuid.test(piece)) {
      if (i < pieces.length - 1) return broken("only the last segment may be a UUID", offset, i + 1)
      if (isType) return broken("a type must not end in a UUID", offset, i + 1)
      tail = piece
    } else {
      const segment = parseSegment(piece)
      if (Result.isFailure(segment)) {
        const { offset: within, problem } = segment.failure
        const hint = i > 0 && piece.startsWith(prefix) ? `; "${prefix}" stands at the start of the identifier only` : ""
        return broken(`${problem}${hint}`, offset + within, i + 1)
      }
      segments.push(segment.success)
    }
    offset += piece.length + 1
  }
  const [first, ...rest] = segments
  if (first === undefined || (!isType && pieces.length === 1)) {
    return broken(
      `a single segment is a type and must end in "~"; an instance needs its type to the left`,
      id.length,
      1
    )
  }
  return Result.succeed({
    id,
    kind: isType ? "type" : "instance",
    segments: [first, ...rest],
    ...(tail === undefined ? {} : { uuid: tail })
  })
}

/** Whether a `$id` or `$ref` means a GTS identifier, as a URI (`gts://gts.…`) or as it is (`gts.…`). */
export const isReference = (text: string): boolean => text.startsWith(uriPrefix) || text.startsWith(prefix)

/** Parses what stands in a `$id` or `$ref`: the identifier as a URI (`gts://gts.…`), or as it is. */
export const parseReference = (text: string): Result.Result<GtsId, InvalidSchemaId> =>
  parse(text.startsWith(uriPrefix) ? text.slice(uriPrefix.length) : text)

/** Writes a segment. */
export const formatSegment = (segment: Segment): string =>
  `${segment.vendor}.${segment.package}.${segment.namespace}.${segment.type}.v${segment.major}${
    segment.minor === undefined ? "" : `.${segment.minor}`
  }`

/** Writes an identifier from its pieces; the inverse of `parse`. */
export const format = (id: Omit<GtsId, "id">): string =>
  `${prefix}${id.segments.map(formatSegment).join("~")}${id.uuid === undefined ? "" : `~${id.uuid}`}${
    id.kind === "type" ? "~" : ""
  }`

/** The identifier without any minor version: what all identifiers that can stand for each other share. */
export const family = (id: GtsId): string =>
  format({ ...id, segments: [withoutMinor(id.segments[0]), ...id.segments.slice(1).map(withoutMinor)] })

const withoutMinor = ({ major, namespace, package: pkg, type, vendor }: Segment): Segment => ({
  vendor,
  package: pkg,
  namespace,
  type,
  major
})

/** Whether `candidate` is what `wanted` asks for: the same, where a segment without a minor version takes any minor. */
export const matches = (wanted: GtsId, candidate: GtsId): boolean =>
  family(wanted) === family(candidate) &&
  wanted.segments.every((segment, i) => segment.minor === undefined || segment.minor === candidate.segments[i]?.minor)

const compareDecimal = (a: string, b: string): number =>
  a.length === b.length ? (a < b ? -1 : a > b ? 1 : 0) : a.length - b.length

/** Orders identifiers of one family by their minor versions, base type first; none comes before `.0`. */
export const compareMinor = (a: GtsId, b: GtsId): number => {
  for (let i = 0; i < a.segments.length; i++) {
    const order = compareDecimal(a.segments[i]?.minor ?? "", b.segments[i]?.minor ?? "")
    if (order !== 0) return order
  }
  return 0
}

/** The longest tool name that every provider takes. */
export const maxToolName = 64

/**
 * The name under which a provider gets to know a tool: the type name of the last segment, or of the last but one and
 * the UUID's beginning for an anonymous instance. In `[A-Za-z0-9_-]{1,64}`; two identifiers may give the same name.
 */
export const toolName = (id: GtsId): string => {
  const last = id.segments[id.segments.length - 1] ?? id.segments[0]
  return id.uuid === undefined
    ? last.type.slice(0, maxToolName)
    : `${last.type.slice(0, maxToolName - 9)}_${id.uuid.slice(0, 8)}`
}
