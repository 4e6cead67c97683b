/**
 * The secrets of keys: `lg_` and 256 random bits. They are kept as their plain SHA-256, since what has so much entropy
 * cannot be guessed from it; looking a hash up tells nothing of how close a wrong secret came.
 */
import { hash, randomBytes, timingSafeEqual } from "node:crypto"

const prefix = "lg_"
const randomLength = 32
const pattern = /^lg_[A-Za-z0-9_-]{43}$/

/** The longest secret that is looked at to its end. Longer ones are refused, whatever they start with. */
const maxLength = 1024

/** A new secret. */
export const make = (): string => prefix + randomBytes(randomLength).toString("base64url")

/** Whether a secret can be one of those that `make` makes; if not, no store has to be asked for it. */
export const isWellFormed = (secret: string): boolean => pattern.test(secret)

/** The SHA-256 of a secret in hex. It takes the same work whatever is wrong with the secret, but for its length. */
export const digest = (secret: string): string =>
  hash("sha256", secret.length > maxLength ? secret.slice(0, maxLength) : secret, "hex")

/** Whether a secret is too long to be anybody's: its `digest` is not that of the whole. */
export const isTooLong = (secret: string): boolean => secret.length > maxLength

/** A digest as it is compared. */
export const bytesOf = (digest: string): Buffer => Buffer.from(digest, "latin1")

/** Whether two digests are equal, in a time that does not depend on where they differ. */
export const areEqual = (digest: string, known: Buffer): boolean => {
  const bytes = bytesOf(digest)
  return bytes.length === known.length && timingSafeEqual(bytes, known)
}
