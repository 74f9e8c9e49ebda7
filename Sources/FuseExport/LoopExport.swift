// Why this file exists: the loop door as the command line sees it: map, unmap, and the two hidden verbs that carry a
// map on after the shell is gone.
public import DiskTypes
public import MapRegistry

/// Makes loop devices of images and takes them down.
public enum LoopExport {
    /// `qblk __loop-supervisor ...`: watches over one map.
    public static let supervisorVerb = "__loop-supervisor"
    /// `qblk __loop-server ...`: carries the requests of one map.
    public static let serverVerb = "__loop-server"

    /// Makes a loop device; returns when it can be read. Its processes, where it needs any, go on by themselves.
    /// With `foreground` the calling process is the supervisor: `ready` is called with the record, and the call
    /// returns after the map is taken down.
    public static func map(
        _ options: LoopMapOptions, ready: (MapRecord) -> Void = { _ in }
    ) throws(ImageError) -> MapRecord {
        throw .unsupported("loop maps are not built yet")
    }

    /// Takes a map down. A device in use is refused; with `deferred` it goes as soon as nobody uses it.
    public static func unmap(_ record: MapRecord, deferred: Bool = false) throws(ImageError) {
        throw .unsupported("loop maps are not built yet")
    }

    /// Runs a hidden verb if `arguments` (with the program's name first) ask for one: its exit code. nil: not one of
    /// ours. Call it first thing in `main`, before anything parses arguments.
    public static func runHiddenVerb(_ arguments: [String]) -> Int32? {
        guard arguments.count > 1 else { return nil }
        switch arguments[1] {
        case supervisorVerb: return runSupervisor(Array(arguments.dropFirst(2)))
        case serverVerb: return runServer(Array(arguments.dropFirst(2)))
        default: return nil
        }
    }

    /// The supervisor's whole life.
    public static func runSupervisor(_ arguments: [String]) -> Int32 { 1 }

    /// The server's whole life.
    public static func runServer(_ arguments: [String]) -> Int32 { 1 }
}
