/**
 * What the schema cannot say: names that must exist, be unique, or form a tree. It works on the file's plain values, not on
 * the decoded configuration, so that these problems are told together with the schema's. Whatever has the wrong shape is
 * passed over, since the schema has its own word on that.
 */
import { didYouMean, type Finding, type Path } from "./ConfigError.ts"

type Json = Readonly<Record<string, unknown>>

const isJson = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)
const mapping = (value: unknown): Json => isJson(value) ? value : {}
const list = (value: unknown): ReadonlyArray<unknown> => Array.isArray(value) ? value : []
const own = (value: Json, key: string): unknown => Object.hasOwn(value, key) ? value[key] : undefined

/** Prices beside those of tokens; a model that has one of them need not be sold by the token. */
const mediaPrices = [
  "image",
  "character_mchar",
  "input_audio_second",
  "output_audio_second",
  "input_video_second",
  "output_video_second"
]

const slug = /^[a-z0-9][a-z0-9._-]{0,63}$/
const headerName = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$/
const maxName = 128
/** Among more names than these no nearest one is looked for. */
const maxCompared = 200

const nameProblem = (name: string): string | undefined =>
  name === "" || name.length > maxName || name.trim() !== name
    ? `a name has 1 to ${maxName} characters and no space at its ends`
    : undefined

/** All problems of names in the file's plain values. `providers` are the slugs that exist when the file names none. */
export const crossReferences = (
  root: unknown,
  providersOtherwise: ReadonlyArray<string>,
  isReplaced: (path: Path) => boolean
): ReadonlyArray<Finding> => {
  const findings: Array<Finding> = []
  const add = (path: Path, message: string): void => {
    findings.push({ path, message })
  }
  /** The name as it may be shown: never one that came from the environment. */
  const shown = (name: string, path: Path): string => isReplaced(path) ? "" : ` "${name}"`

  const config = mapping(root)
  const auth = mapping(config["auth"])
  const tenants = mapping(config["tenants"])
  const providers = mapping(config["providers"])
  const interceptors = mapping(config["interceptors"])
  const slugs = "providers" in config ? Object.keys(providers) : providersOtherwise
  const tenantNames = new Set(Object.keys(tenants))
  const interceptorNames = new Set(Object.keys(interceptors))
  const providerNames = new Set(slugs)

  const mustExist = (name: unknown, known: ReadonlySet<string>, kind: string, path: Path): void => {
    if (typeof name !== "string" || name === "" || known.has(name)) return
    add(
      path,
      `there is no ${kind}${shown(name, path)}${
        isReplaced(path) || known.size > maxCompared ? "" : didYouMean(name, Array.from(known))
      }`
    )
  }

  /** Tells of the second and later ones of equal texts. */
  const mustDiffer = (seen: Set<string>, value: unknown, what: string, path: Path): void => {
    if (typeof value !== "string" || value === "") return
    if (seen.has(value)) add(path, `${what} is used twice`)
    seen.add(value)
  }

  /** Two limits that count the same would both take from one bucket, and two budgets from one account. */
  const mustDifferFromEachOther = (owner: Json, path: Path): void => {
    const limits = new Set<string>()
    for (const [index, entry] of list(owner["rate_limits"]).entries()) {
      const limit = mapping(entry)
      const kind = ["requests", "tokens", "concurrent"].find((key) => key in limit)
      mustDiffer(
        limits,
        kind === undefined ? undefined : `${String(limit["per"])} ${kind} ${String(limit["window"])}`,
        "a limit of the same kind, per the same and with the same window",
        [...path, "rate_limits", index]
      )
    }
    const budgets = new Set<string>()
    for (const [index, entry] of list(owner["budgets"]).entries()) {
      const { per, window } = mapping(entry)
      mustDiffer(
        budgets,
        `${String(per)} ${String(window)}`,
        "a budget per the same with the same window",
        [...path, "budgets", index]
      )
    }
  }

  // ----------------------------------------------------------------------------------------------------------------
  // auth
  // ----------------------------------------------------------------------------------------------------------------

  const ids = new Set<string>()
  const hashes = new Set<string>()
  for (const [index, entry] of list(auth["keys"]).entries()) {
    const key = mapping(entry)
    const path = ["auth", "keys", index]
    mustDiffer(ids, key["id"], "this id", [...path, "id"])
    const hash = key["sha256"]
    mustDiffer(hashes, typeof hash === "string" ? hash.toLowerCase() : hash, "this hash", [...path, "sha256"])
    mustDifferFromEachOther(key, path)
    if ("tenants" in config) mustExist(key["tenant"], tenantNames, "tenant", [...path, "tenant"])
  }
  if (auth["mode"] === "jwt" && !("jwt" in auth)) add(["auth", "mode"], "the mode jwt needs the section auth.jwt")

  // ----------------------------------------------------------------------------------------------------------------
  // tenants
  // ----------------------------------------------------------------------------------------------------------------

  const walked = new Set<string>()
  for (const [name, entry] of Object.entries(tenants)) {
    const tenant = mapping(entry)
    const problem = nameProblem(name)
    if (problem !== undefined) add(["tenants", name], problem)
    mustExist(tenant["parent"], tenantNames, "tenant", ["tenants", name, "parent"])
    for (const [index, interceptor] of list(tenant["interceptors"]).entries()) {
      mustExist(interceptor, interceptorNames, "interceptor", ["tenants", name, "interceptors", index])
    }
    mustDifferFromEachOther(tenant, ["tenants", name])
    const way = new Set<string>()
    let at: unknown = name
    while (typeof at === "string" && !way.has(at) && !walked.has(at)) {
      way.add(at)
      at = mapping(own(tenants, at))["parent"]
    }
    for (const member of way) walked.add(member)
    if (typeof at !== "string" || !way.has(at)) continue
    // A circle is told of once, at the tenant of it that comes first in the file.
    const members = Array.from(way)
    const circle = members.slice(members.indexOf(at))
    const inCircle = new Set(circle)
    const first = Object.keys(tenants).find((member) => inCircle.has(member)) ?? at
    const turned = [...circle.slice(circle.indexOf(first)), ...circle.slice(0, circle.indexOf(first)), first]
    add(["tenants", first, "parent"], `the parents form a circle: ${turned.join(" -> ")}`)
  }

  // ----------------------------------------------------------------------------------------------------------------
  // providers, models, routes
  // ----------------------------------------------------------------------------------------------------------------

  if ("providers" in config && isJson(config["providers"]) && slugs.length === 0) {
    add(["providers"], "needs at least one provider; leave the key out to take them from the environment")
  }
  for (const [name, entry] of Object.entries(providers)) {
    const provider = mapping(entry)
    if (!slug.test(name)) {
      add(
        ["providers", name],
        "a provider's name has 1 to 64 of a-z, 0-9, ., _ and -, and starts with a letter or digit"
      )
    }
    for (const header of Object.keys(mapping(provider["headers"]))) {
      if (!headerName.test(header)) add(["providers", name, "headers", header], "this is not a header name")
    }
    if (provider["type"] === "sandbox") {
      for (const key of ["base_url", "api_key", "api_keys", "headers"]) {
        if (key in provider) add(["providers", name, key], "the sandbox calls nobody; leave this out")
      }
    }
  }

  const mustHaveProvider = (id: unknown, path: Path): void => {
    if (typeof id !== "string") return
    const at = id.indexOf("::")
    if (at >= 0) mustExist(id.slice(0, at), providerNames, "provider", path)
    if (at === 0 || (at > 0 && at + 2 === id.length)) add(path, "expected provider::model")
  }
  const models = new Set<string>()
  for (const [index, entry] of list(config["models"]).entries()) {
    const id = mapping(entry)["id"]
    const path = ["models", index, "id"]
    if (typeof id === "string" && id !== "" && !id.includes("::")) add(path, "expected provider::model")
    mustHaveProvider(id, path)
    mustDiffer(models, id, "this model", path)
    const prices = mapping(entry)["prices"]
    if (!isJson(prices) || mediaPrices.some((name) => Object.hasOwn(prices, name))) continue
    for (const name of ["input_mtok", "output_mtok"]) {
      if (!Object.hasOwn(prices, name)) add(["models", index, "prices", name], "is required")
    }
  }
  for (const [name, entry] of Object.entries(mapping(config["routes"]))) {
    const problem = nameProblem(name)
    if (problem !== undefined) add(["routes", name], problem)
    if (name.includes("::")) {
      add(["routes", name], "a route's name must not hold ::, which stands for a provider's model")
    }
    for (const [index, model] of list(mapping(entry)["models"]).entries()) {
      const path: Path = ["routes", name, "models", index]
      const id = isJson(model) ? model["model"] : model
      const inner = isJson(model) ? [...path, "model"] : path
      mustHaveProvider(id, inner)
      if (typeof id === "string" && id.includes("*")) add(inner, "a route names its models one by one, without *")
    }
  }
  for (const name of Object.keys(interceptors)) {
    const problem = nameProblem(name)
    if (problem !== undefined) add(["interceptors", name], problem)
  }
  return findings
}
