/**
 * The administration of keys. Where tenants are configured, an administrator's rights end with its own tenant and those
 * below it; keys of others do not exist for it.
 */
import { Clock, Effect, Option, Result, Schema } from "effect"
import { type HttpServerRequest, HttpServerResponse } from "effect/http"
import { type Caller, CurrentCaller } from "../../sdk/Caller.ts"
import { type AuditEventType, AuditTrail } from "../../sdk/AuditSink.ts"
import { fail, Forbidden, type GatewayError, invalid, NotFound } from "../../sdk/GatewayError.ts"
import { type KeyInfo, Keys } from "../../sdk/Identity.ts"
import { validationError } from "../../sdk/Issues.ts"
import {
  IssuedKeyJson,
  issuedKeyJson,
  KeyJson,
  keyJson,
  KeyListJson,
  NewKeyJson,
  newKeyOf,
  RotationJson,
  TenantName
} from "../../sdk/KeyJson.ts"
import { Tenants } from "../../sdk/Tenant.ts"
import { type Door, readJson, visit } from "../Door.ts"

const strictly = { errors: "all", onExcessProperty: "error" } as const
const decodeNewKey = Schema.decodeUnknownResult(NewKeyJson, strictly)
const decodeRotation = Schema.decodeUnknownResult(RotationJson, strictly)
const encodeIssued = Schema.encodeSync(IssuedKeyJson)
const encodeKey = Schema.encodeSync(KeyJson)
const encodeList = Schema.encodeSync(KeyListJson)

/** No key needs more; a body of the size of a conversation does not have to be read. */
const maxKeyBytes = 256 * 1024

const defaultLimit = 100
const maxLimit = 1000

/** Who administrates, and how far that goes. */
interface Administration {
  readonly keys: Keys["Service"]
  readonly caller: Caller
  /** The tenants whose keys it may know of; `undefined` for all. */
  readonly tenants: ReadonlyArray<string> | undefined
}

const mayNot = (what: string) => fail(new Forbidden({ message: what }))

/** What a caller may administrate. Fails with `forbidden`, and with `not_found` where no keys are kept. */
const administration = Effect.fnUntraced(function*(): Effect.fn.Return<Administration, GatewayError> {
  const caller = yield* CurrentCaller
  if (caller.admin !== true) return yield* mayNot("this takes a key with the right to administrate (admin)")
  const keys = yield* Effect.serviceOption(Keys)
  if (Option.isNone(keys)) {
    return yield* fail(
      new NotFound({
        message: "this gateway keeps no keys; set auth.mode to keys or jwt, and storage.sql to a database"
      })
    )
  }
  const tenants = yield* Effect.serviceOption(Tenants)
  const all = Option.isNone(tenants) || tenants.value.all().length === 0
  return { keys: keys.value, caller, tenants: all ? undefined : tenants.value.family(caller.tenant) }
})

const covers = ({ tenants }: Administration, tenant: string): boolean => tenants?.includes(tenant) !== false

const otherTenant = (tenant: string) =>
  mayNot(`this key does not administrate the tenant "${tenant}", which is neither its own nor below it`)

/** A key that the caller may administrate; another tenant's is as good as none. */
const keyOf = Effect.fnUntraced(
  function*(admin: Administration, id: string): Effect.fn.Return<KeyInfo, GatewayError> {
    const key = yield* admin.keys.get(id)
    return covers(admin, key.tenant) ? key : yield* fail(new NotFound({ message: `there is no key "${id}"` }))
  }
)

/** Tells the audit who did what to which key: by ids, and nothing else of it. */
const audit = Effect.fnUntraced(
  function*(type: AuditEventType, { caller }: Administration, requestId: string, key: KeyInfo) {
    const trail = yield* Effect.serviceOption(AuditTrail)
    if (Option.isNone(trail) || !trail.value.isActive()) return
    trail.value.emit({
      type,
      at: yield* Clock.currentTimeMillis,
      requestId,
      tenant: caller.tenant,
      ...(caller.user === undefined ? {} : { user: caller.user }),
      ...(caller.keyId === undefined ? {} : { keyId: caller.keyId }),
      details: { key: key.id, key_tenant: key.tenant }
    })
  }
)

/** An answer that no cache may keep. */
const answer = (status: number, body: unknown, requestId: string): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.text(JSON.stringify(body), {
    status,
    contentType: "application/json",
    headers: { "x-request-id": requestId, "cache-control": "no-store" }
  })

/** `/llm-gateway/v1/admin/keys/ID` and what comes behind it, the id percent-encoded. */
const keyPath = /\/admin\/keys\/([^/?]+)/

const idOf = ({ url }: HttpServerRequest.HttpServerRequest): Effect.Effect<string, GatewayError> => {
  const encoded = keyPath.exec(url)?.[1] ?? ""
  return Effect.try({
    try: () => decodeURIComponent(encoded),
    catch: () => fail(new NotFound({ message: `there is no key "${encoded.slice(0, 100)}"` }))
  })
}

interface Page {
  readonly after?: string
  readonly limit: number
  readonly tenant?: string
}

const limitProblem = `expected a whole number from 1 to ${maxLimit}`
const Parameters = Schema.Struct({
  // Ids of the configuration may be any text, but those of PostgreSQL hold no NUL.
  after: Schema.optionalKey(
    Schema.String.check(Schema.isPattern(/^[^\p{Cc}\p{Cs}]{1,256}$/u, { message: "expected the id of a key" }))
  ),
  limit: Schema.optionalKey(
    Schema.String.check(Schema.isPattern(/^(?:[1-9]\d{0,2}|1000)$/, { message: limitProblem }))
  ),
  tenant: Schema.optionalKey(TenantName)
})
const decodeParameters = Schema.decodeUnknownResult(Parameters, strictly)

const pageOf = ({ url }: HttpServerRequest.HttpServerRequest): Result.Result<Page, GatewayError> => {
  const start = url.indexOf("?")
  const parameters = new URLSearchParams(start < 0 ? "" : url.slice(start + 1))
  const given = Object.fromEntries(parameters)
  for (const name of Object.keys(given)) {
    if (parameters.getAll(name).length > 1) return Result.fail(fail(invalid(name.slice(0, 100), "is there twice")))
  }
  return Result.mapBoth(decodeParameters(given), {
    onFailure: (error) => fail(validationError(error)),
    onSuccess: ({ limit, ...page }) => ({ ...page, limit: limit === undefined ? defaultLimit : Number(limit) })
  })
}

/** Whether there is a body at all. RFC 9112 section 6.3: without either header there is none. */
const hasBody = ({ headers }: HttpServerRequest.HttpServerRequest): boolean =>
  headers["transfer-encoding"] !== undefined || (headers["content-length"] ?? "0") !== "0"

/** The handlers. */
export const make = (door: Door, maxBodyBytes: number) => {
  const maxBytes = Math.min(maxBodyBytes, maxKeyBytes)
  return {
    createKey: visit(
      door,
      Effect.fnUntraced(function*({ request, requestId }) {
        const admin = yield* administration()
        const body = yield* readJson(request, maxBytes)
        const asked = yield* Effect.fromResult(
          Result.mapError(decodeNewKey(body), (error) => fail(validationError(error)))
        )
        if (!covers(admin, asked.tenant)) return yield* otherTenant(asked.tenant)
        const issued = yield* admin.keys.create(newKeyOf(asked))
        yield* audit("key_created", admin, requestId, issued.key)
        return answer(201, encodeIssued(issuedKeyJson(issued)), requestId)
      })
    ),

    listKeys: visit(
      door,
      Effect.fnUntraced(function*({ request, requestId }) {
        const admin = yield* administration()
        const { after, limit, tenant } = yield* Effect.fromResult(pageOf(request))
        if (tenant !== undefined && !covers(admin, tenant)) return yield* otherTenant(tenant)
        const tenants = tenant === undefined ? admin.tenants : [tenant]
        const found = yield* admin.keys.list({
          // One more tells whether there is another page.
          limit: limit + 1,
          ...(after === undefined ? {} : { after }),
          ...(tenants === undefined ? {} : { tenants })
        })
        const keys = found.slice(0, limit)
        const next = found.length > limit ? keys.at(-1)?.id : undefined
        const list = { keys: keys.map(keyJson), ...(next === undefined ? {} : { next }) }
        return answer(200, encodeList(list), requestId)
      })
    ),

    revokeKey: visit(
      door,
      Effect.fnUntraced(function*({ request, requestId }) {
        const admin = yield* administration()
        const before = yield* keyOf(admin, yield* idOf(request))
        const key = yield* admin.keys.revoke(before.id)
        if (before.revokedAt === undefined) yield* audit("key_revoked", admin, requestId, key)
        return answer(200, encodeKey(keyJson(key)), requestId)
      })
    ),

    rotateKey: visit(
      door,
      Effect.fnUntraced(function*({ request, requestId }) {
        const admin = yield* administration()
        const { id } = yield* keyOf(admin, yield* idOf(request))
        const body = hasBody(request) ? yield* readJson(request, maxBytes) : {}
        const { grace } = yield* Effect.fromResult(
          Result.mapError(decodeRotation(body), (error) => fail(validationError(error)))
        )
        const issued = yield* admin.keys.rotate(id, grace)
        yield* audit("key_rotated", admin, requestId, issued.key)
        return answer(200, encodeIssued(issuedKeyJson(issued)), requestId)
      })
    )
  }
}
