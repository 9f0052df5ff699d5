/** What a user can mend, told in one line: what happened, and what to do. */
export class SkipstoneError extends Error {
  override name = "SkipstoneError";
}

/** A bundle that is damaged, of another format, or that a browser cannot run. */
export class BundleError extends SkipstoneError {
  override name = "BundleError";
}

/** A file of a bundle that is not what the manifest says; what is kept of it must go before it is loaded again. */
export class DamagedFile extends BundleError {}

/** A text that does not fit the cache. */
export class CacheFull extends SkipstoneError {
  override name = "CacheFull";
}

/** An option or an input that cannot be. */
export class ConfigError extends SkipstoneError {
  override name = "ConfigError";
}

/** The text of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
