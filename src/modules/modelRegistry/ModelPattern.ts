/**
 * Patterns over canonical model ids, as tenants' approvals use them: `openai::*`, `anthropic::claude-*`, `*`. The only
 * wildcard is `*`, for any run of characters, none included; everything else stands for itself.
 *
 * Matching walks through the id once from left to right, so its cost is bounded by the lengths of pattern and id. There
 * is no regular expression in it that a pattern could make explode.
 */

type Matcher = (id: string) => boolean

const never: Matcher = () => false
const always: Matcher = () => true

const compileOne = (pattern: string): Matcher => {
  const pieces = pattern.split("*")
  const prefix = pieces[0] ?? ""
  const suffix = pieces[pieces.length - 1] ?? ""
  const middle = pieces.slice(1, -1).filter((piece) => piece !== "")
  if (middle.length === 0 && prefix === "" && suffix === "") return always
  const least = prefix.length + suffix.length
  return (id) => {
    if (id.length < least || !id.startsWith(prefix) || !id.endsWith(suffix)) return false
    const end = id.length - suffix.length
    let at = prefix.length
    for (const piece of middle) {
      // The leftmost place is always the best one: it leaves the most room for what follows.
      const found = id.indexOf(piece, at)
      if (found < 0 || found + piece.length > end) return false
      at = found + piece.length
    }
    return true
  }
}

/** Compiles patterns into one predicate: whether any of them matches an id. No patterns match nothing. */
export const compilePatterns = (patterns: ReadonlyArray<string>): (id: string) => boolean => {
  const exact = new Set<string>()
  const matchers: Array<Matcher> = []
  for (const pattern of patterns) {
    if (pattern.includes("*")) matchers.push(compileOne(pattern))
    else if (pattern !== "") exact.add(pattern)
  }
  if (matchers.includes(always)) return always
  if (matchers.length === 0) return exact.size === 0 ? never : (id) => exact.has(id)
  return (id) => exact.has(id) || matchers.some((matches) => matches(id))
}

/** Whether any of the patterns matches `id`. Compile them with `compilePatterns` where the same ones are used again. */
export const matchesPattern = (patterns: ReadonlyArray<string>, id: string): boolean => compilePatterns(patterns)(id)
