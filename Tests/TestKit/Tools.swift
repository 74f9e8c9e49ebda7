// A test says which programs and devices it needs, and is skipped with that reason where they are missing. It must
// never fail because a machine is poor.

import Foundation

public enum Tools {
    /// The program under test: QBLK_BINARY, else the `qblk` built beside this test bundle.
    public static let qblk: String = {
        if let given = ProcessInfo.processInfo.environment["QBLK_BINARY"] { return given }
        let arguments = CommandLine.arguments
        let bundle = zip(arguments, arguments.dropFirst()).first { $0.0 == "--test-bundle-path" }?.1
        let own = bundle ?? (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        return URL(filePath: own).deletingLastPathComponent().appending(path: "qblk").path
    }()

    public static let haveQblk = access(qblk, X_OK) == 0
    public static let qblkReason = "needs the qblk binary (build it, or set QBLK_BINARY)"

    /// Whether a program is in PATH (or /sbin and /usr/sbin, where root's tools are).
    public static func have(_ program: String) -> Bool { path(of: program) != nil }

    public static func path(of program: String) -> String? {
        let path = ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin"
        let folders = path.split(separator: ":").map(String.init) + ["/usr/sbin", "/sbin"]
        return folders.map { "\($0)/\(program)" }.first { access($0, X_OK) == 0 }
    }

    /// The major version of qemu-img, 0 without it. Its map output and options are those of version 10.
    public static let qemuVersion: Int = {
        guard have("qemu-img"), have("qemu-io"),
            let version = try? Command(["qemu-img", "--version"]).succeed().output.split(separator: " ").dropFirst(2)
                .first
        else { return 0 }
        return version.split(separator: ".").first.flatMap { Int($0) } ?? 0
    }()

    public static let haveQemu = qemuVersion >= 10
    public static let qemuReason = "needs qemu-img and qemu-io, version 10 or later"

    /// GNU time, which says how much memory a command took (the shell's own `time` does not).
    public static let canMeasure = (try? Command(["time", "-f", "%M", "true"]).run().exit) == 0
    public static let measureReason = "needs GNU time (package time)"

    /// Both sides of a differential test.
    public static let canCompare = haveQblk && haveQemu
    public static let compareReason = "\(qblkReason), and \(qemuReason)"

    /// Whether this process can make block devices through FUSE and loop.
    public static let canLoop =
        geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0 && access("/dev/loop-control", R_OK | W_OK) == 0
        && have("losetup")
    /// Whether this kernel reads partition tables at all: tried on a plain file, without the program under test.
    public static let kernelReadsPartitions: Bool = {
        guard canLoop, have("sfdisk"), let folder = try? Scratch.newFolder("partitions") else { return false }
        let script = """
            truncate -s 16M disk && printf 'label: gpt\nsize=4M\n' | sfdisk --quiet disk && loop=$(losetup -r -P -f --show disk) \
            && { test -e ${loop}p1; found=$?; losetup -d $loop; exit $found; }
            """
        return (try? Command(["sh", "-c", script], in: folder).run().exit) == 0
    }()

    public static let loopReason = "needs root, /dev/fuse and /dev/loop-control"
}

/// A call of the program under test.
public func qblk(_ arguments: String..., in folder: String? = nil, deadline: Double = 60) throws -> Outcome {
    try Command([Tools.qblk] + arguments, in: folder, deadline: deadline).run()
}

public func qblk(_ arguments: [String], in folder: String? = nil, deadline: Double = 60) throws -> Outcome {
    try Command([Tools.qblk] + arguments, in: folder, deadline: deadline).run()
}

/// A call of qemu-img whose outcome is the question.
public func qemuImg(_ arguments: String..., in folder: String? = nil) throws -> Outcome {
    try Command(["qemu-img"] + arguments, in: folder).run()
}

/// Where two files part, in cmp's words; nil when they hold the same bytes (the first `limit` ones, if given).
public func differenceOfFiles(_ first: String, _ second: String, limit: Int? = nil) throws -> String? {
    let options = limit.map { ["-n", "\($0)"] } ?? []
    let outcome = try Command(["cmp"] + options + [first, second]).run()
    return outcome.exit == 0 ? nil : outcome.output + outcome.errors
}
