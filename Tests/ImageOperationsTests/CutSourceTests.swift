// A file that is cut while it is read has lost bytes. Its holes must not be taken for the lost part, nor the lost part for
// holes: whatever layer it is of, and wherever it is cut, reading it ends in an error.

import DiskTypes
import Glibc
import ImageChain
import SystemPackage
import Testing

@testable import ImageOperations

/// A folder with one disk of 16 MiB, sparse, in one of the files that a chain can have.
private final class SparseDisk {
    static let size = 16 << 20
    let folder: String
    /// The image to read, and the file that has the disk's bytes.
    let image: String
    let file: String

    enum Layer: String, CaseIterable, Sendable { case raw, backing, dataFile, preallocated }

    init(_ layer: Layer) throws {
        var name = Array("/tmp/qblk-cut-XXXXXX".utf8CString)
        folder = mkdtemp(&name).map { String(cString: $0) } ?? "/tmp"
        image = "\(folder)/image"
        switch layer {
        case .raw: file = image
        case .backing: file = "\(folder)/base"
        case .dataFile: file = "\(folder)/data"
        case .preallocated: file = image
        }
        if layer == .raw || layer == .backing { try create(file, .raw) { $0.size = UInt64(Self.size) } }
        if layer == .backing {
            try create(image, .qcow2) {
                $0.options = try FormatOptions(["backing_file=base,backing_fmt=raw"], for: .qcow2)
            }
        } else if layer != .raw {
            let options = layer == .dataFile ? "data_file=data,preallocation=metadata" : "preallocation=metadata"
            try create(image, .qcow2) {
                $0.options = try FormatOptions([options], for: .qcow2)
                $0.size = UInt64(Self.size)
            }
        }
        // Some data at the start and in the middle of the file, all else holes.
        let bytes = [UInt8](repeating: 0x5a, count: 128 << 10)
        let fd = open(file, O_WRONLY | O_CLOEXEC)
        for at in [layer == .preallocated ? 1 << 20 : 0, 10 << 20] {
            #expect(bytes.withUnsafeBytes { pwrite(fd, $0.baseAddress, $0.count, off_t(at)) } == bytes.count)
        }
        close(fd)
    }

    deinit {
        for name in ["image", "base", "data", "out", "copy"] { unlink("\(folder)/\(name)") }
        rmdir(folder)
    }

    private func create(
        _ path: String, _ format: ImageFormat, _ change: (inout ImageCreate.Request) throws -> Void
    ) throws {
        var request = ImageCreate.Request(path: FilePath(path), format: format)
        try change(&request)
        try ImageCreate(request).write()
    }
}

struct CutSourceTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let layer: String
        let length: Int
        var testDescription: String { "\(layer) cut to \(length)" }
    }
    static let cases = SparseDisk.Layer.allCases.flatMap { layer in
        [4096, 100_000, 3 << 20, 10 << 20, (10 << 20) + 70_001, 12 << 20, SparseDisk.size - 1].map {
            Case(layer: layer.rawValue, length: $0)
        }
    }

    private func disk(_ one: Case) throws -> SparseDisk {
        try SparseDisk(try #require(SparseDisk.Layer(rawValue: one.layer)))
    }

    private func options(_ one: Case, workers: Int) -> ConvertOptions {
        var options = ConvertOptions()
        options.source.format = one.layer == "raw" ? .raw : .qcow2
        options.workers = workers
        return options
    }

    @Test("convert fails when its source is cut under way, whatever it writes", arguments: cases)
    func convert(one: Case) throws {
        for isRaw in [true, false] {
            let disk = try disk(one)
            let cut: (ImageConvert.Progress) -> Void = { _ in _ = truncate(disk.file, off_t(one.length)) }
            let (image, out) = (disk.image, "\(disk.folder)/out")
            #expect(throws: ImageError.self) {
                if isRaw {
                    try ImageConvert.raw(
                        from: FilePath(image), to: FilePath(out), options(one, workers: 1), report: cut)
                } else {
                    try ImageConvert.qcow2(
                        from: FilePath(image), to: FilePath(out), options(one, workers: 1), report: cut)
                }
            }
        }
    }

    @Test("a file that is not cut converts", arguments: SparseDisk.Layer.allCases.map(\.rawValue))
    func whole(layer: String) throws {
        let one = Case(layer: layer, length: 0)
        let disk = try disk(one)
        try ImageConvert.raw(from: FilePath(disk.image), to: "\(disk.folder)/out", options(one, workers: 2))
    }

    @Test("compare says neither equal nor different", arguments: cases)
    func compare(one: Case) throws {
        let disk = try disk(one)
        let copy = "\(disk.folder)/copy"
        try ImageConvert.raw(from: FilePath(disk.image), to: FilePath(copy), options(one, workers: 1))
        var options = CompareOptions()
        options.workers = 1
        options.first.format = .raw
        options.second.format = one.layer == "raw" ? .raw : .qcow2
        let image = disk.image
        #expect(throws: CompareFailure.self) {
            try ImageCompare.run(FilePath(copy), FilePath(image), options) { _ in
                _ = truncate(disk.file, off_t(one.length))
            }
        }
    }

    @Test("what lies behind the cut is no hole", arguments: cases.filter { $0.layer == "raw" || $0.layer == "backing" })
    func status(one: Case) throws {
        let disk = try disk(one)
        var open = OpenOptions()
        open.format = one.layer == "raw" ? .raw : .qcow2
        let chain = try ImageChain.open(path: FilePath(disk.image), options: open)
        #expect(truncate(disk.file, off_t(one.length)) == 0)
        var reader = StatusReader(chain)
        var place = UInt64(0)
        let error = #expect(throws: ImageError.self) {
            while place < chain.size {
                let status = try reader.status(at: place, length: chain.size - place)
                #expect(!status.isZero || status.end <= UInt64(one.length))
                place = status.end
            }
        }
        #expect(error?.what.contains("was cut while it was in use") == true)
        #expect(throws: ImageError.self) { try chain.requireWholeFiles() }
    }
}
