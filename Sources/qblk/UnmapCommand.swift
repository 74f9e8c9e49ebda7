// Why this file exists: `qblk unmap`.
import ArgumentParser
struct UnmapCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "unmap", abstract: "Not yet.")
}
