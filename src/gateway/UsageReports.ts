/**
 * What usage records add up to, for whoever may see them.
 *
 * Who sees what: a caller sees its own tenant and those below it. One whose key or token belongs to a user sees that
 * user's records in its own tenant alone: a user of the same name in a tenant below is somebody else. An administrator of
 * a tenant at the root, or of a gateway without configured tenants, sees everything; one of any other tenant sees that
 * tenant and those below it.
 */
import { Effect, Option } from "effect"
import { type Caller, CurrentCaller } from "../sdk/Caller.ts"
import { fail, Forbidden, type GatewayError, NotFound } from "../sdk/GatewayError.ts"
import type { Operation } from "../sdk/Operation.ts"
import { Tenants } from "../sdk/Tenant.ts"
import { type UsageGroup, UsageLog, type UsageQuery, type UsageRow } from "../sdk/UsageLog.ts"

/** What is asked for: times in Unix ms, all groups and the limit told. */
export interface UsageSelection {
  readonly from: number
  readonly to: number
  readonly groupBy: ReadonlyArray<UsageGroup>
  /** Rows at most. */
  readonly limit: number
  readonly tenant?: string
  readonly user?: string
  readonly key?: string
  readonly tag?: string
  readonly model?: string
  readonly operation?: Operation
}

/** The rows, and whether there are more than the limit let through. */
export interface UsageRows {
  readonly rows: ReadonlyArray<UsageRow>
  readonly truncated: boolean
}

/** The part of all records that a caller may see; an absent field does not restrict it. */
interface View {
  readonly tenants?: ReadonlyArray<string>
  readonly user?: string
}

type TenantTree = typeof Tenants.Service

const viewOf = (caller: Caller, tree: TenantTree | undefined): View => {
  const isConfigured = tree !== undefined && tree.all().length > 0
  if (caller.admin === true) {
    // The lineage of a tenant at the root is that tenant alone.
    if (!isConfigured || tree.lineage(caller.tenant)?.length === 1) return {}
  } else if (caller.user !== undefined) {
    return { tenants: [caller.tenant], user: caller.user }
  }
  return { tenants: isConfigured ? tree.family(caller.tenant) : [caller.tenant] }
}

const forbidden = (what: string, name: string) =>
  Effect.fail(fail(new Forbidden({ message: `you may not see the usage of ${what} "${name.slice(0, 100)}"` })))

/** The records that a caller asks for, out of those that it may see; fails with `forbidden` where it asks for others. */
const select = (asked: UsageSelection, caller: Caller, tree: TenantTree | undefined) => {
  const view = viewOf(caller, tree)
  if (asked.tenant !== undefined && view.tenants?.includes(asked.tenant) === false) {
    return forbidden("tenant", asked.tenant)
  }
  if (asked.user !== undefined && view.user !== undefined && asked.user !== view.user) {
    return forbidden("user", asked.user)
  }
  const family = asked.tenant === undefined ? view.tenants : tree?.family(asked.tenant) ?? [asked.tenant]
  // Below a tenant that may be seen there is none that may not, except for the caller who is bound to one tenant.
  const tenants = view.user === undefined ? family : view.tenants
  const user = asked.user ?? view.user
  const query: UsageQuery = {
    from: asked.from,
    to: asked.to,
    groupBy: asked.groupBy,
    // One more than asked for tells whether there are more.
    limit: asked.limit + 1,
    ...(tenants === undefined ? {} : { tenants }),
    ...(user === undefined ? {} : { user }),
    ...(asked.key === undefined ? {} : { keyId: asked.key }),
    ...(asked.tag === undefined ? {} : { tag: asked.tag }),
    ...(asked.model === undefined ? {} : { model: asked.model }),
    ...(asked.operation === undefined ? {} : { operation: asked.operation })
  }
  return Effect.succeed(query)
}

/** Fails where the gateway keeps no usage records. */
export const usageLog = Effect.gen(function*() {
  const log = Option.getOrUndefined(yield* Effect.serviceOption(UsageLog))
  return log ?? (yield* fail(
    new NotFound({ message: "this gateway keeps no usage records; configure usage.sinks: [{ type: sql }]" })
  ))
})

/** Adds up the records that the current caller may see. Fails with `not_found`, `forbidden` and `store_unavailable`. */
export const rowsOf = Effect.fnUntraced(function*(
  log: UsageLog["Service"],
  asked: UsageSelection
): Effect.fn.Return<UsageRows, GatewayError> {
  const tree = Option.getOrUndefined(yield* Effect.serviceOption(Tenants))
  const found = yield* log.aggregate(yield* select(asked, yield* CurrentCaller, tree))
  const truncated = found.length > asked.limit
  return { rows: truncated ? found.slice(0, asked.limit) : found, truncated }
})
