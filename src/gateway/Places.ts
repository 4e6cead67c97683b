/**
 * How many requests run at the same time in this process. One beyond that waits for a place, for a while and in a queue that has
 * an end. Tenants take turns at the places that become free, so that one that sends thousands does not keep the others waiting,
 * and a tenant may have a most of its own.
 *
 * This protects the process. Limits that a tenant is sold are `rate_limits`, which replicas share and which refuse at once.
 */
import { Context, Effect, Layer, PartitionedSemaphore, Semaphore } from "effect"
import { fail, type GatewayError, Overloaded } from "../sdk/GatewayError.ts"

/** How many, and how long the others wait. */
export interface PlacesOptions {
  /** Requests in all that run; absent: any number. */
  readonly all?: number
  /** Of one tenant; absent: as many as there are places. */
  readonly perTenant?: number
  /** Requests that wait at most; half of them may be one tenant's. */
  readonly queue: number
  /** How long one waits, ms. */
  readonly patienceMs: number
}

/** How many run and wait. */
export interface PlacesFigures {
  readonly running: number
  readonly waiting: number
  /** Requests that were turned away. */
  readonly refused: number
}

/** The places of this process. */
export class Places extends Context.Service<Places, {
  /** Waits for a place; `entered` is told how to leave it. Fails with `overloaded`. */
  readonly enter: (tenant: string, entered: (leave: Effect.Effect<void>) => void) => Effect.Effect<void, GatewayError>
  readonly figures: () => PlacesFigures
}>()("llm-gateway/gateway/Places") {
  static readonly layer = (options: PlacesOptions): Layer.Layer<Places> => Layer.sync(Places, () => make(options))
}

/** Set for what is asked in the course of a request that has its place: if it waited for one, all could wait for each other. */
export const HasPlace: Context.Reference<boolean> = Context.Reference<boolean>("llm-gateway/gateway/HasPlace", {
  defaultValue: () => false
})

/** A tenant, for as long as it has requests here. */
interface Group {
  /** Absent where a tenant has no most of its own. */
  readonly places: Semaphore.Semaphore | undefined
  requests: number
  waiting: number
}

/** What callers are told to wait for, ms. */
const retryAfterMs = 1000

const refusal = (message: string): GatewayError => fail(new Overloaded({ message, retryAfterMs }))
const queueFull = refusal("more requests wait than the gateway lets wait; try again in a moment")

const make = ({ all, patienceMs, perTenant, queue }: PlacesOptions): Places["Service"] => {
  const whole = all === undefined ? undefined : PartitionedSemaphore.makeUnsafe<string>({ permits: all })
  const groups = new Map<string, Group>()
  const tooLate = refusal(`no place became free within ${patienceMs} ms; try again in a moment`)
  let running = 0
  let waiting = 0
  /** Of those that wait, the ones that want a place of all, and not first one of their tenant's own. */
  let wanting = 0
  let refused = 0

  const groupOf = (tenant: string): Group => {
    const known = groups.get(tenant)
    if (known !== undefined) return known
    const made: Group = {
      places: perTenant === undefined ? undefined : Semaphore.makeUnsafe(perTenant),
      requests: 0,
      waiting: 0
    }
    groups.set(tenant, made)
    return made
  }

  const forget = (tenant: string, group: Group): void => {
    group.requests--
    if (group.requests === 0) groups.delete(tenant)
  }

  const takeShared = (tenant: string): Effect.Effect<void> =>
    whole === undefined ? Effect.void : Effect.suspend(() => {
      wanting++
      return Effect.onExit(whole.take(tenant, 1), () => Effect.sync(() => void wanting--))
    })

  /** Takes a tenant's own place first: while it waits for that, it keeps no other tenant from one. */
  const take = (tenant: string, { places }: Group): Effect.Effect<void> =>
    places === undefined ? takeShared(tenant) : Effect.andThen(
      places.take(1),
      Effect.onExit(
        takeShared(tenant),
        (exit) => exit._tag === "Success" ? Effect.void : Effect.asVoid(places.release(1))
      )
    )

  const leaves = (tenant: string, group: Group): Effect.Effect<void> =>
    Effect.suspend(() => {
      running--
      forget(tenant, group)
      const shared = whole === undefined ? Effect.void : whole.release(1)
      return group.places === undefined ? shared : Effect.andThen(group.places.release(1), shared)
    })

  const entering = (
    tenant: string,
    entered: (leave: Effect.Effect<void>) => void
  ): Effect.Effect<void, GatewayError> => {
    const group = groupOf(tenant)
    const isFree = (all === undefined || running + wanting < all) &&
      (perTenant === undefined || group.requests < perTenant)
    if (!isFree && (waiting >= queue || group.waiting >= Math.ceil(queue / 2))) {
      refused++
      if (group.requests === 0) groups.delete(tenant)
      return Effect.fail(queueFull)
    }
    group.requests++
    group.waiting++
    waiting++
    const taken = isFree ? take(tenant, group) : Effect.timeoutOrElse(take(tenant, group), {
      duration: patienceMs,
      orElse: () => {
        refused++
        return Effect.fail(tooLate)
      }
    })
    return Effect.uninterruptibleMask((restore) =>
      Effect.onExit(restore(taken), (exit) =>
        Effect.sync(() => {
          waiting--
          group.waiting--
          if (exit._tag === "Failure") {
            forget(tenant, group)
            return
          }
          running++
          entered(leaves(tenant, group))
        }))
    )
  }

  return {
    enter: (tenant, entered) =>
      Effect.flatMap(HasPlace, (hasPlace) => hasPlace ? Effect.void : entering(tenant, entered)),
    figures: () => ({ running, waiting, refused })
  }
}
