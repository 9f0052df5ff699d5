const MASK = 2n ** 64n - 1n;
const STEP = 0x9e3779b97f4a7c15n;
/** The factors of SplitMix64 in halves of 32 bits, upper first: BigInts would take a microsecond a token. */
const STEP_HALVES = [0x9e3779b9, 0x7f4a7c15] as const;
const FACTORS = [
  [30, 0xbf58476d, 0x1ce4e5b9],
  [27, 0x94d049bb, 0x133111eb],
] as const;

/**
 * Return standard Gumbel noise, a value for each token: a function of seed, position and token id alone, the one of
 * Python. The largest of logits plus this noise is a draw from their softmax.
 *
 * Source: SplitMix64 (Steele, Lea and Flood, 2014) as the hash; Gumbel-max (Maddison, Tarlow and Minka, 2014).
 */
export function gumbel(seed: number, position: number, tokenIds: Uint32Array): Float64Array {
  const key = output(output(STEP, BigInt(seed)), BigInt(position));
  const [keyHigh, keyLow] = [Number(key >> 32n), Number(key & 0xffffffffn)];
  return Float64Array.from(tokenIds, (id) => -Math.log(-Math.log(between(keyHigh, keyLow, id))));
}

/** What SplitMix64, started at `key`, puts out at an index. */
function output(key: bigint, index: bigint): bigint {
  let bits = (index * STEP + key) & MASK;
  bits = ((bits ^ (bits >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  bits = ((bits ^ (bits >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return bits ^ (bits >> 31n);
}

/** The upper 52 bits of the same, and a half, as a number between 0 and 1. */
function between(keyHigh: number, keyLow: number, index: number): number {
  let low = Math.imul(index, STEP_HALVES[1]) >>> 0;
  let high = (upperOf(index, STEP_HALVES[1]) + Math.imul(index, STEP_HALVES[0])) >>> 0;
  high = (high + keyHigh + Number(low + keyLow > 0xffffffff)) >>> 0;
  low = (low + keyLow) >>> 0;
  for (const [shift, factorHigh, factorLow] of FACTORS) {
    low = (low ^ ((low >>> shift) | (high << (32 - shift)))) >>> 0;
    high = (high ^ (high >>> shift)) >>> 0;
    high = (upperOf(low, factorLow) + Math.imul(high, factorLow) + Math.imul(low, factorHigh)) >>> 0;
    low = Math.imul(low, factorLow) >>> 0;
  }
  low = (low ^ ((low >>> 31) | (high << 1))) >>> 0;
  high = (high ^ (high >>> 31)) >>> 0;
  return (high * 2 ** 20 + (low >>> 12) + 0.5) * 2 ** -52;
}

/** The upper 32 bits of a product of two numbers of 32 bits. */
function upperOf(one: number, other: number): number {
  const [oneLow, oneHigh, otherLow, otherHigh] = [one & 0xffff, one >>> 16, other & 0xffff, other >>> 16];
  const middle = oneHigh * otherLow + ((oneLow * otherLow) >>> 16);
  const second = oneLow * otherHigh + (middle & 0xffff);
  return oneHigh * otherHigh + (middle >>> 16) + (second >>> 16);
}
