/** Maps that do not grow beyond a bound. */

/** Puts a value in as the newest one; where there is no more room, the oldest goes. */
export const put = <V>(map: Map<string, V>, key: string, value: V, capacity: number): void => {
  map.delete(key)
  const oldest = map.size >= capacity ? map.keys().next().value : undefined
  if (oldest !== undefined) map.delete(oldest)
  map.set(key, value)
}
