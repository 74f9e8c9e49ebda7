// From an opened chain to its table, and to the names that `qblk table` prints.

import BlockEngine
public import DiskTypes
public import ImageChain
import LinuxIO
public import SystemPackage

extension DMTable {
    /// The table of a chain, or what is in its way. Throws where the image itself cannot be read.
    public static func build(_ chain: ImageChain) throws(ImageError) -> Result<DMTable, DMUnsupported> {
        var builder: DMTableBuilder
        do throws(DMUnsupported) {
            builder = try DMTableBuilder(size: chain.size, fileLengths: chain.files.map(\.length))
        } catch {
            return .failure(error)
        }
        var walker = ExtentWalker(chain)
        while let step = walker.next() {
            if case .damaged(let damage) = step, damage.reason == .tableUnreadable {
                // Not the image's fault: the system could not read it now. That must not become part of a table.
                throw ImageError(.system, damage.description, path: path(ofLayer: damage.layer, in: chain)?.name)
            }
            do throws(DMUnsupported) {
                try builder.add(step)
            } catch {
                return .failure(error)
            }
        }
        do throws(DMUnsupported) {
            return .success(try builder.finish())
        } catch {
            return .failure(error)
        }
    }

    /// The table of a chain; what is in its way is an error.
    public init(of chain: ImageChain) throws(ImageError) {
        switch try DMTable.build(chain) {
        case .success(let table): self = table
        case .failure(let obstacle): throw obstacle.error.named(chain.layers[0].path)
        }
    }

    /// What `qblk table` puts for the files: `devices`, one for each file that the table uses, in the order of the
    /// chain; without any, the files' own paths.
    public func names(for chain: ImageChain, devices: [FilePath] = []) throws(ImageError) -> DMDeviceNames {
        var texts: [UInt16: FilePath] = [:]
        guard !devices.isEmpty else {
            for file in files { texts[file] = chain.files[Int(file)].path }
            return try DMDeviceNames(paths: texts)
        }
        guard devices.count == files.count else {
            let paths = files.map { printable(chain.files[Int($0)].path) }.joined(separator: ", ")
            throw ImageError(
                .reference, "the table uses \(files.count) file\(files.count == 1 ? "" : "s"), not \(devices.count)",
                advice: "give --device once for each of: \(paths)")
        }
        for (file, device) in zip(files, devices) { texts[file] = device }
        return try DMDeviceNames(paths: texts)
    }

    private static func path(ofLayer layer: UInt16, in chain: ImageChain) -> FilePath? {
        Int(layer) < chain.layers.count ? chain.layers[Int(layer)].path : nil
    }
}

extension DMTableBuilder {
    fileprivate mutating func add(_ step: ExtentWalker.Step) throws(DMUnsupported) {
        switch step {
        case .extent(let extent): try add(extent)
        case .damaged(let damage): try add(damage)
        }
    }
}
