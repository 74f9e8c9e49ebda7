// Qblk starts its own servers and a few system tools. A child gets the descriptors it was given and no others: a
// leaked one would keep a lock, a device or a socket alive.
import CQblk
public import DiskTypes
import Glibc
public import SystemPackage

/// A child of this process, which has to wait for it once.
public struct ChildProcess: Sendable {
    /// Its process id, which no other process gets before `wait` or `poll` reported the end.
    public let pid: Int32

    /// How a process ended.
    public enum End: Hashable, Sendable {
        case exited(Int32)
        case killed(signal: Int32)
        /// It ended by itself, with code 0.
        public var isSuccess: Bool { self == .exited(0) }
    }

    /// A descriptor of ours and the number the child finds it under.
    public struct Inheritance: Sendable {
        /// The descriptor in this process.
        public let fd: Int32
        /// What the child calls it.
        public let number: Int32
        /// Hands `fd` to the child as `number`. This process keeps its own.
        public init(fd: Int32, as number: Int32) {
            self.fd = fd
            self.number = number
        }
    }

    /// How the child starts.
    public struct Options: OptionSet, Sendable {
        /// QB_SPAWN_* bits of `qb_spawn`.
        public let rawValue: UInt32
        /// Options by their bits.
        public init(rawValue: UInt32) { self.rawValue = rawValue }
        /// A session of its own: no terminal, no signals from one.
        public static let newSession = Options(rawValue: QB_SPAWN_NEW_SESSION)
        /// Standard input, output and error on /dev/null, unless inherited numbers say otherwise.
        public static let nullStandardIO = Options(rawValue: QB_SPAWN_NULL_STDIO)
        /// Works in `/`, so that it holds no file system busy.
        public static let rootDirectory = Options(rawValue: QB_SPAWN_ROOT_DIRECTORY)
        /// All of these: for processes that stay when the command that started them has ended.
        public static let daemon: Options = [.newSession, .nullStandardIO, .rootDirectory]
    }

    /// Runs the file `executable` (no search in PATH). `arguments` start with the program's name; they are
    /// bytes without NUL.
    /// Throws what kept it from running, up to and including execve.
    public static func spawn(
        _ executable: FilePath, _ arguments: [FileName], environment: [FileName]? = nil, inherit: [Inheritance] = [],
        options: Options = []
    ) throws(Errno) -> ChildProcess {
        let variables = environment ?? currentEnvironment()
        let sources = inherit.map(\.fd)
        let targets = inherit.map(\.number)
        let pid = unsafe withCStrings(arguments) { argv in
            unsafe withCStrings(variables) { envp in
                unsafe executable.withPlatformString {
                    unsafe qb_spawn($0, argv, envp, sources, targets, Int32(inherit.count), options.rawValue)
                }
            }
        }
        if pid < 0 { throw Errno(rawValue: 0 &- pid) }
        return ChildProcess(pid: pid)
    }

    /// What tells it from a later process with the same pid.
    public var identity: ProcessIdentity? { ProcessIdentity(pid: pid) }

    /// Waits for its end. Once only.
    public func wait() throws(Errno) -> End {
        var status: Int32 = 0
        try retrying { unsafe waitpid(pid, &status, 0) }
        return ChildProcess.end(status)
    }

    /// Its end if it came, without waiting; after that, never ask again.
    public func poll() throws(Errno) -> End? {
        var status: Int32 = 0
        return try retrying { unsafe waitpid(pid, &status, WNOHANG) } == 0 ? nil : ChildProcess.end(status)
    }

    /// Sends a signal. Safe until `wait` or `poll` reported the end: till then no other process gets the pid.
    public func kill(_ signal: Int32) throws(Errno) { try check(Glibc.kill(pid, signal)) }

    private static func end(_ status: Int32) -> End {
        status & 0x7f == 0 ? .exited((status >> 8) & 0xff) : .killed(signal: status & 0x7f)
    }

    private static func currentEnvironment() -> [FileName] {
        var all: [FileName] = []
        var next = unsafe environ
        while let entry = unsafe next.pointee {
            unsafe all.append(FileName(UnsafeRawBufferPointer(start: entry, count: strlen(entry))))
            unsafe next += 1
        }
        return all
    }

    private static func withCStrings<Result>(
        _ strings: [FileName], _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> Result
    ) -> Result {
        var copies = unsafe strings.map { string in
            unsafe (string.bytes + [0]).withUnsafeBytes { bytes in
                unsafe bytes.baseAddress.flatMap { unsafe strdup($0.assumingMemoryBound(to: CChar.self)) }
            }
        }
        unsafe copies.append(nil)
        defer { for i in unsafe copies.indices { unsafe free(copies[i]) } }
        return unsafe copies.withUnsafeBufferPointer { unsafe body($0.baseAddress.unsafelyUnwrapped) }
    }
}
