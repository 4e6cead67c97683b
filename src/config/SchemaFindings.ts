/**
 * Turns what the schema found wrong into findings that a person can act on. The schema's own messages are used where it
 * has them; unknown keys get the nearest known one, unknown words the list of known ones. Values are never repeated.
 */
import type { SchemaAST, SchemaIssue } from "effect"
import { didYouMean, type Finding, type Path } from "./ConfigError.ts"

/** What is needed to know about the file besides the schema's issues. */
export interface Context {
  readonly value: unknown
  readonly isReplaced: (path: Path) => boolean
}

const valueAt = (root: unknown, path: Path): unknown => {
  let value = root
  for (const key of path) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, key)) return undefined
    value = Object.getOwnPropertyDescriptor(value, key)?.value
  }
  return value
}

const text = (value: unknown): string | undefined => typeof value === "string" && value !== "" ? value : undefined

const literalsOf = (types: ReadonlyArray<SchemaAST.AST>): ReadonlyArray<string> =>
  types.flatMap((type) => type._tag === "Literal" && typeof type.literal === "string" ? [type.literal] : [])

/** The struct that a type is read from, behind its transformations. */
const encoded = (type: SchemaAST.AST): SchemaAST.AST => {
  let at = type
  for (let links = at.encoding; links !== undefined && links.length > 0; links = at.encoding) {
    const last = links[links.length - 1]
    if (last === undefined) break
    at = last.to
  }
  return at
}

/** The words that a union of mappings tells its members apart by, under `type`. */
const tagsOf = (types: ReadonlyArray<SchemaAST.AST>): ReadonlyArray<string> =>
  types.flatMap((type) => {
    const from = encoded(type)
    if (from._tag !== "Objects") return []
    const tag = from.propertySignatures.find((property) => property.name === "type")
    return tag === undefined ? [] : literalsOf([tag.type])
  })

const isMapping = (value: unknown): boolean => typeof value === "object" && value !== null && !Array.isArray(value)

const expectedOf = (ast: SchemaAST.AST, value: unknown): string => {
  const own = text(ast.annotations?.["message"])
  switch (ast._tag) {
    case "Objects":
      return "expected a mapping (key: value)"
    case "Arrays":
      return "expected a list"
    case "String":
      if (own !== undefined) return own
      return typeof value === "number" || typeof value === "boolean"
        ? "expected a text; put it in quotes"
        : "expected a text"
    default:
      return own ?? "is not valid here"
  }
}

/** All findings in an issue, in the schema's order. */
export const findingsOf = (issue: SchemaIssue.Issue, context: Context): ReadonlyArray<Finding> => {
  const findings: Array<Finding> = []
  const given = (path: Path): unknown => context.isReplaced(path) ? undefined : valueAt(context.value, path)

  const walk = (issue: SchemaIssue.Issue, path: Path, message: string | undefined): void => {
    const add = (fallback: string): void => {
      findings.push({ path, message: message ?? fallback })
    }
    switch (issue._tag) {
      case "Pointer":
        return walk(
          issue.issue,
          [...path, ...issue.path.map((key) => typeof key === "symbol" ? String(key) : key)],
          message
        )
      case "Composite":
        return issue.issues.forEach((inner) => walk(inner, path, message))
      case "Encoding":
        return walk(issue.issue, path, message)
      case "Filter":
        return walk(issue.issue, path, message ?? text(issue.filter.annotations?.["message"]))
      case "MissingKey":
        return add("is required")
      case "UnexpectedKey": {
        const known = issue.ast._tag === "Objects"
          ? issue.ast.propertySignatures.flatMap(({ name }) => typeof name === "string" ? [name] : [])
          : []
        const hint = didYouMean(path[path.length - 1], known)
        const others = hint === "" && known.length > 0 ? `; known here: ${known.join(", ")}` : hint
        findings.push({ path, message: `unknown key${others}`, atKey: true })
        return
      }
      case "InvalidType":
        return add(
          valueAt(context.value, path) === null
            ? "has no value; give it one, or leave the key out"
            : expectedOf(issue.ast, valueAt(context.value, path))
        )
      case "InvalidValue":
        return add(text(issue.annotations?.["message"]) ?? "is not valid here")
      case "AnyOf":
        return union(issue, path, message)
      default:
        return add("is not valid here")
    }
  }

  const union = (issue: SchemaIssue.AnyOf, path: Path, message: string | undefined): void => {
    const add = (found: string, inner: Path = path): void => {
      findings.push({ path: inner, message: message ?? found })
    }
    const value = valueAt(context.value, path)
    const own = text(issue.ast.annotations?.["message"])
    if (value === null) return add("has no value; give it one, or leave the key out")
    if (own !== undefined) return add(own)
    const words = literalsOf(issue.ast.types)
    if (words.length === issue.ast.types.length) {
      return add(`expected one of ${words.join(", ")}${didYouMean(given(path), words)}`)
    }
    const tags = tagsOf(issue.ast.types)
    if (tags.length > 0) {
      if (!isMapping(value)) return add("expected a mapping (key: value)")
      const tag = valueAt(value, ["type"])
      const inner = [...path, "type"]
      if (tag === undefined) return add("is required", inner)
      if (typeof tag !== "string" || !tags.includes(tag)) {
        return add(`expected one of ${tags.join(", ")}${didYouMean(given(inner), tags)}`, inner)
      }
      // Only the member with the value's own tag has something to say.
      const chosen = issue.issues.filter((_, index) => issue.issues.length === 1 || tags[index] === tag)
      return (chosen.length > 0 ? chosen : issue.issues).forEach((each) => walk(each, path, message))
    }
    // A word or a mapping: the form that was given is the one that was meant.
    const before = findings.length
    for (const each of issue.issues) {
      const ast = "ast" in each ? encoded(each.ast) : undefined
      const forMapping = ast?._tag === "Objects"
      if (ast === undefined || forMapping === isMapping(value)) walk(each, path, message)
    }
    if (findings.length === before) {
      const words = issue.ast.types.flatMap((type) => type._tag === "Union" ? literalsOf(type.types) : [])
      const lists = issue.ast.types.some((type) => encoded(type)._tag === "Arrays")
      const form = words.length > 0 ? words.join(", ") : "a text"
      add(`expected ${form} or ${lists ? "a list of them" : "a mapping"}${didYouMean(given(path), words)}`)
    }
  }

  walk(issue, [], undefined)
  return findings
}
