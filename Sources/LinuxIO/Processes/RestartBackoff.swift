// When a server that died is started again. One that served for a while is followed at once; after servers that die at
// their start the wait grows, so that a fault which lasts does not keep a processor busy.

/// How long to wait before the next server, from how long the last ones lived. All times are monotonic milliseconds.
package struct RestartBackoff {
    /// A server that lived this long did not die of its start.
    package static let longLife: Int64 = 5_000
    /// The longest wait.
    package static let longestPause: Int64 = 10_000

    /// Deaths in a row of servers that did not live long.
    private var quickDeaths: Int64 = 0
    private var startedAt: Int64 = 0

    /// No server has been started yet.
    package init() {}

    /// A server is being started.
    package mutating func start(at now: Int64) { startedAt = now }

    /// The server died. Milliseconds to wait before the next: none after a long life and after the first quick death, then
    /// 200, 400, 800 ... up to `longestPause`.
    package mutating func death(at now: Int64) -> Int64 {
        quickDeaths = now - startedAt > Self.longLife ? 0 : quickDeaths + 1
        return quickDeaths < 2 ? 0 : min(50 << min(quickDeaths, 8), Self.longestPause)
    }
}
