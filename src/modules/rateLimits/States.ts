/** Limits' state by key, in bounded memory. */

/** A state that can tell when nothing would be lost with it. */
export interface Forgettable {
  readonly isIdle: (now: number) => boolean
}

/** States that are looked at for each one that is asked for. Two, so that they go faster than they come. */
const pace = 2
/** States that are looked at to find room for a new one. */
const search = 64

/**
 * At most `capacity` states. Keys hold names that callers choose, so that anybody can make as many as he likes. Only idle
 * states are ever forgotten: to drop another would give its owner a full bucket again, and so flooding would be the way
 * past a limit. Where all places are taken by states that are in use, there is no room for a new one.
 */
export class States<S extends Forgettable> {
  readonly #capacity: number
  readonly #states = new Map<string, S>()
  /** Goes round and round. A Map's iterator stays good whatever comes and goes. */
  #round: MapIterator<[string, S]>

  constructor(capacity: number) {
    this.#capacity = capacity
    this.#round = this.#states.entries()
  }

  /** How many there are. */
  get size(): number {
    return this.#states.size
  }

  /** The state of a key, and a look at some others. */
  get(key: string, now: number): S | undefined {
    this.#forget(pace, now)
    return this.#states.get(key)
  }

  /** Keeps a new state. False where there is no room. */
  add(key: string, state: S, now: number): boolean {
    if (this.#states.size >= this.#capacity) this.#forget(search, now)
    if (this.#states.size >= this.#capacity) return false
    this.#states.set(key, state)
    return true
  }

  /** Keeps a new state, room or not. */
  force(key: string, state: S): void {
    this.#states.set(key, state)
  }

  #forget(most: number, now: number): void {
    for (let looked = 0; looked < most; looked++) {
      const next = this.#round.next()
      if (next.done === true) {
        this.#round = this.#states.entries()
        return
      }
      const [key, state] = next.value
      if (state.isIdle(now)) this.#states.delete(key)
    }
  }
}
