// Asks again and again, while somebody can see it, and less often while it fails.

/** Runs `work`, a while after it has ended. */
export class Poller {
  #timer = 0;
  #busy = false;
  #failures = 0;
  #paused = false;

  /**
   * @param {() => Promise<void>} work
   * @param {(failure: any, wait: number) => boolean} onFailure with the seconds to the next try, which there is if it says so
   * @param {number} [every] milliseconds
   * @param {number} [most] milliseconds that it waits at most after failures
   */
  constructor(work, onFailure, every = 1000, most = 30000) {
    this.work = work;
    this.onFailure = onFailure;
    this.every = every;
    this.most = most;
    document.addEventListener("visibilitychange", () => this.poke());
  }

  /** @param {boolean} paused */
  set paused(paused) {
    this.#paused = paused;
    this.poke();
  }

  /** Ask now, whatever the last answer was. */
  async poke() {
    clearTimeout(this.#timer);
    if (this.#busy || this.#paused || document.hidden) return;
    this.#busy = true;
    let wait = this.every;
    try {
      await this.work();
      this.#failures = 0;
    } catch (failure) {
      this.#failures += 1;
      wait = Math.min(this.every * 2 ** this.#failures, this.most);
      if (!this.onFailure(failure, wait / 1000)) return;
    } finally {
      this.#busy = false;
    }
    if (!this.#paused && !document.hidden) this.#timer = setTimeout(() => this.poke(), wait);
  }
}
