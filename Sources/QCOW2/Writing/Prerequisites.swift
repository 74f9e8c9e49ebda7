// What writes wait for that needs I/O on the image's tables. The planner does none: it notes here what is missing, and the
// helper thread takes the list, does it (`QCOW2Writer.satisfy`), or says why it could not.

/// The prerequisites of the writes that wait. Used under the writer's lock.
struct Prerequisites {
    private var list: [QCOW2Writer.Prerequisite] = []
    /// Those that could not be met, and the errno of that.
    private var failures: [QCOW2Writer.Prerequisite: Int32] = [:]

    /// Adds one that no write waits for.
    mutating func add(_ prerequisite: QCOW2Writer.Prerequisite) {
        if !list.contains(prerequisite) { list.append(prerequisite) }
    }

    /// The answer to a write that needs this first: to wait, or the error of the try before.
    mutating func require(_ prerequisite: QCOW2Writer.Prerequisite) -> WriteGrant {
        if let error = failures.removeValue(forKey: prerequisite) { return .failed(error) }
        add(prerequisite)
        return .wants
    }

    /// All so far, oldest first.
    mutating func takeAll() -> [QCOW2Writer.Prerequisite] {
        defer { list = [] }
        return list
    }

    /// One could not be met: the next write that requires it gets errno `error`.
    mutating func fail(_ prerequisite: QCOW2Writer.Prerequisite, _ error: Int32) { failures[prerequisite] = error }
}
