// The locks must mean to QEMU what they mean to us; so QEMU is asked, in both directions.
import DiskTypes
import Glibc
import LinuxIO
import TestKit
import Testing
import SystemPackage

private let hasQEMU = exists("/usr/bin/qemu-io") && exists("/usr/bin/qemu-img")

@Suite struct ImageLockTests {
    @Test func twoWritersExcludeEachOther() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", pattern(512))
        let first = try HostFile.open(path: FilePath(path), writable: true)
        let second = try HostFile.open(path: FilePath(path), writable: true)
        try ImageLock.take(.writableImage, on: first)
        let error = #expect(throws: ImageError.self) { try ImageLock.take(.writableImage, on: second) }
        #expect(error?.kind == .locked)
        #expect(error?.description == "Failed to get \"write\" lock: Is another process using the image?")
        #expect(error?.path == FileName(path))
        // The failed attempt left nothing behind, and giving back really gives back.
        try ImageLock.take(.writableImage, on: first)
        ImageLock.release(first)
        try ImageLock.take(.writableImage, on: second)
    }

    @Test func readersShareAndKeepWritersOut() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", pattern(512))
        let one = try HostFile.open(path: FilePath(path)), two = try HostFile.open(path: FilePath(path))
        let writer = try HostFile.open(path: FilePath(path), writable: true)
        try ImageLock.take(.readOnlyImage, on: one)
        try ImageLock.take(.readOnlyImage, on: two)
        #expect(refusal(.writableImage, writer) == "Failed to get \"write\" lock")
        ImageLock.release(one)
        ImageLock.release(two)
        try ImageLock.take(.writableImage, on: writer)
        #expect(refusal(.readOnlyImage, one) == "Failed to get shared \"write\" lock")
        try ImageLock.take(.rawBacking, on: one)
        try ImageLock.take(.none, on: two)
    }

    @Test func closingTheFileGivesTheLockBack() throws {
        let scratch = try Scratch()
        let path = try scratch.file("a", pattern(512))
        do { try ImageLock.take(.writableImage, on: try HostFile.open(path: FilePath(path), writable: true)) }
        try ImageLock.take(.writableImage, on: try HostFile.open(path: FilePath(path), writable: true))
    }

    @Test(.enabled(if: hasQEMU, "qemu-io is missing")) func qemuRefusesWhatWeHold() throws {
        let scratch = try Scratch()
        let path = try image(scratch)
        let file = try HostFile.open(path: FilePath(path), writable: true)
        try ImageLock.take(.writableImage, on: file)
        #expect(!qemuIO(path, "read 0 512"))
        #expect(!qemuIO(path, "write 0 512"))
        try ImageLock.take(.readOnlyImage, on: file)
        #expect(qemuIO(path, "read 0 512", readOnly: true))
        #expect(!qemuIO(path, "write 0 512"))
        try ImageLock.take(.rawBacking, on: file)
        #expect(qemuIO(path, "write 0 512"))
        ImageLock.release(file)
        #expect(qemuIO(path, "write 0 512"))
    }

    @Test(.enabled(if: hasQEMU, "qemu-io is missing")) func weRefuseWhatQEMUHolds() throws {
        let scratch = try Scratch()
        let path = try image(scratch)
        let file = try HostFile.open(path: FilePath(path), writable: true)
        try whileQEMUHolds(path, readOnly: false) {
            #expect(refusal(.writableImage, file) == "Failed to get \"write\" lock")
            #expect(refusal(.readOnlyImage, file) == "Failed to get shared \"write\" lock")
            try ImageLock.take(.rawBacking, on: file)
            ImageLock.release(file)
        }
        try whileQEMUHolds(path, readOnly: true) {
            #expect(refusal(.writableImage, file) == "Failed to get \"write\" lock")
            try ImageLock.take(.readOnlyImage, on: file)
            ImageLock.release(file)
        }
        try ImageLock.take(.writableImage, on: file)
    }

    @Test(.enabled(if: hasQEMU && hasLoop, "needs qemu-io, root and loop devices"))
    func aLoopDeviceKeepsTheLockAfterWeLetGo() throws {
        let scratch = try Scratch()
        let path = try image(scratch)
        let device: LoopDevice
        do {
            let file = try HostFile.open(path: FilePath(path), writable: true)
            try ImageLock.take(.writableImage, on: file)
            device = try LoopDevice.attach(fd: file.fd, readOnly: false, name: FilePath(path))
        }
        // Every descriptor of ours is closed now; only the loop device has the open file description.
        #expect(!qemuIO(path, "write 0 512"))
        try device.detach()
        #expect(eventually { qemuIO(path, "write 0 512") })
    }
}

/// What is said when a lock cannot be had; nil when it was.
private func refusal(_ mode: LockMode, _ file: HostFile) -> String? {
    do throws(ImageError) {
        try ImageLock.take(mode, on: file)
        return nil
    } catch {
        return error.what
    }
}

private func image(_ scratch: Scratch) throws -> String {
    let path = scratch.path + "/a.qcow2"
    let made = try ChildProcess.spawn(
        "/usr/bin/qemu-img", ["qemu-img", "create", "-q", "-f", "qcow2", FileName(path), "1M"], options: .nullStandardIO
    )
    guard try made.wait().isSuccess else { throw TestFailure("qemu-img cannot create \(path)") }
    return path
}

private func qemuIO(_ path: String, _ command: String, readOnly: Bool = false) -> Bool {
    let arguments: [FileName] =
        ["qemu-io", "-f", "qcow2"] + (readOnly ? ["-r"] : []) + ["-c", FileName(command), FileName(path)]
    do {
        return try ChildProcess.spawn("/usr/bin/qemu-io", arguments, options: .nullStandardIO).wait().isSuccess
    } catch {
        return false
    }
}

/// Runs `body` while a qemu-io has the image open. It reads commands from a pipe and quits when that closes.
private func whileQEMUHolds(_ path: String, readOnly: Bool, _ body: () throws -> Void) throws {
    var input: [Int32] = [-1, -1], output: [Int32] = [-1, -1]
    guard pipe(&input) == 0, pipe(&output) == 0 else { throw TestFailure("no pipes") }
    for fd in input + output { _ = fcntl(fd, F_SETFD, FD_CLOEXEC) }
    let readEnd = OwnedFD(taking: input[0]), writeEnd = OwnedFD(taking: input[1])
    let answers = OwnedFD(taking: output[0]), itsOutput = OwnedFD(taking: output[1])
    let arguments: [FileName] = ["qemu-io", "-f", "qcow2"] + (readOnly ? ["-r"] : []) + [FileName(path)]
    let child = try ChildProcess.spawn(
        "/usr/bin/qemu-io", arguments,
        inherit: [.init(fd: readEnd.raw, as: 0), .init(fd: itsOutput.raw, as: 1)], options: .nullStandardIO)
    try readEnd.close()
    try itsOutput.close()
    // The prompt is not printed before the image is open and locked.
    var byte: UInt8 = 0
    guard read(answers.raw, &byte, 1) == 1 else { throw TestFailure("qemu-io did not open \(path)") }
    do { try body() } catch {
        try child.kill(SIGKILL)
        _ = try child.wait()
        throw error
    }
    try writeEnd.close()
    #expect(try child.wait().isSuccess)
}
