/**
 * Which addresses may be asked for somebody else: public ones, and what the operator allows beside them. An address is
 * public where IANA's registries of special-purpose addresses say nothing else of it
 * (https://www.iana.org/assignments/iana-ipv4-special-registry, …/iana-ipv6-special-registry).
 */
import { Result } from "effect"
import { IpNetwork, NetAddress } from "effect/net"

/** Whether a host or an address may be asked. */
export interface AddressPolicy {
  /** Whether the operator allows this name, wherever it leads. */
  readonly allowsHost: (host: string) => boolean
  /** Whether the operator allows this address. Text that is none is not allowed. */
  readonly allowsAddress: (address: string) => boolean
  /** Whether an address is public. Text that is none is not. */
  readonly isPublic: (address: string) => boolean
}

const networks = (...texts: ReadonlyArray<string>) => texts.map((text) => IpNetwork.fromStringUnsafe(text))

const special4 = networks(
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.0.2.0/24",
  "192.31.196.0/24",
  "192.52.193.0/24",
  "192.88.99.0/24",
  "192.168.0.0/16",
  "192.175.48.0/24",
  "198.18.0.0/15",
  "198.51.100.0/24",
  "203.0.113.0/24",
  "224.0.0.0/4",
  "240.0.0.0/4"
)

/** All that has been given out for the public; mapped, translated (NAT64), local and multicast addresses are outside of it. */
const global6 = networks("2000::/3")
/** Of that, protocol assignments with Teredo, benchmarks and ORCHID, documentation, and 6to4, which hides an IPv4 address. */
const special6 = networks("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")

const isWithin = (address: NetAddress.IpAddress, within: ReadonlyArray<IpNetwork.IpNetwork>): boolean =>
  within.some((network) => IpNetwork.contains(network, address))

const isPublicAddress = (address: NetAddress.IpAddress): boolean =>
  NetAddress.isIpv4Address(address)
    ? !isWithin(address, special4)
    : isWithin(address, global6) && !isWithin(address, special6)

const withoutDot = (host: string): string => host.toLowerCase().replace(/\.$/, "")

/**
 * The policy that allows some hosts (names, each for itself) and ranges (`10.0.0.0/8`, `fd00::/8`) beside what is public.
 * Throws for a range that is none, which the configuration has refused before.
 */
export const make = (allow: ReadonlyArray<string>): AddressPolicy => {
  const hosts = new Set(allow.filter((entry) => !entry.includes("/")).map(withoutDot))
  const ranges = networks(...allow.filter((entry) => entry.includes("/")))
  const parsed = (text: string): NetAddress.IpAddress | undefined =>
    Result.getOrUndefined(NetAddress.ipFromString(text))
  return {
    allowsHost: (host) => hosts.has(withoutDot(host)),
    allowsAddress: (text) => {
      const address = parsed(text)
      return address !== undefined && isWithin(address, ranges)
    },
    isPublic: (text) => {
      const address = parsed(text)
      return address !== undefined && isPublicAddress(address)
    }
  }
}
